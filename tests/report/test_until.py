"""Tables, verdicts and pages of runs whose target space ended, as ``until`` says: each phase has its own steps."""

import re

import pytest

from tests.report.folders import rows, run
from ts_lightning.report import Comparison, run_table, verdict, write_comparison_page
from ts_lightning.report.compare_table import rows as table_rows

PHASES = {"until": 25, "step_seconds": 0.008, "later_step_seconds": 0.002}


@pytest.fixture
def both(tmp_path):
    target = run(tmp_path / "target", rows("val_acc", [0.5, 0.9]), **PHASES)
    weight = run(tmp_path / "weight", rows("val_acc", [0.5, 0.8]), space="weight", step_seconds=0.001)
    return Comparison.of([target, weight])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "8.0 ms in target space, 2.0 ms in weight space (median;"),
        ({"step_seconds": None}, "2.0 ms in weight space (median;"),  # of a run that went on behind the end
        ({"later_step_seconds": None}, "8.0 ms (median;"),
    ],
)
def test_the_table_of_a_run(changes, text, tmp_path):
    table = run_table(run(tmp_path, **{**PHASES, **changes}))
    (line,) = re.findall(r"^time per step +(.*)$", table, re.M)
    assert line.startswith(text)


def test_the_table_of_a_comparison(both):
    cells = {row.label: (row.target, row.weight, row.ratio) for row in table_rows(both)}
    assert cells["time per step in target space"] == ("8.0 ms", "1.0 ms", "8.00")
    assert cells["time per step behind it"] == ("2.0 ms", "1.0 ms", "2.00")
    assert "time per step" not in cells


def test_the_verdict_counts_the_steps_of_each_phase(both):
    """25 of 100 steps at 8 ms and 75 at 2 ms: 3.5 ms on average."""
    assert "; 3.5 times the time a step." in verdict(both)


def test_the_page_has_both(both, tmp_path):
    page = write_comparison_page(both, tmp_path).read_text()
    for label, text in (("time per step in target space", "8.0"), ("time per step behind it", "2.0")):
        assert re.search(rf"{label}</th><td>(<[^>]*>)*{text}", page)
