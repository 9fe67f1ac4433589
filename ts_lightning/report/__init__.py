"""What is made of finished runs: tables, figures and pages, from the files in their folders alone."""

from ts_lightning.report.compare import Comparison, watched_metric
from ts_lightning.report.compare_figure import draw as draw_comparison
from ts_lightning.report.compare_table import table as comparison_table
from ts_lightning.report.curves import draw as draw_run
from ts_lightning.report.history import History, Point
from ts_lightning.report.page import write as write_page
from ts_lightning.report.page import write_comparison as write_comparison_page
from ts_lightning.report.run import Run
from ts_lightning.report.summary import Summary
from ts_lightning.report.table import table as run_table
from ts_lightning.report.tuning import Trial, Tuning
from ts_lightning.report.verdict import verdict

__all__ = [
    "Comparison",
    "History",
    "Point",
    "Run",
    "Summary",
    "Trial",
    "Tuning",
    "comparison_table",
    "draw_comparison",
    "draw_run",
    "run_table",
    "verdict",
    "watched_metric",
    "write_comparison_page",
    "write_page",
]
