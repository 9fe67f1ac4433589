"""A page for a run, or for a comparison of both spaces, in one HTML file that needs no network and no other file.

Curves and panels of the monitor are drawn anew as pictures of their own, so that the page can arrange them for a
screen, a phone or paper. Everything is escaped by the template.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ts_lightning.report import compare_table, monitor
from ts_lightning.report.compare import Comparison
from ts_lightning.report.compare_figure import AXES, draw_metric
from ts_lightning.report.curves import draw_quantity, quantities
from ts_lightning.report.drawing import Picture
from ts_lightning.report.run import PAGE, Run
from ts_lightning.report.table import facts, metric_rows
from ts_lightning.report.verdict import verdict, verdict_of_a_run

_TEXTS = "worst_texts.csv"
_MOST_TEXTS = 20


def write(run: Run) -> Path:
    """Write ``report.html`` into a run's folder.

    Returns:
        The file.
    """
    curves = [
        Picture.drawn(quantity, draw_quantity, run.history, metrics)
        for quantity, metrics in quantities(run.history).items()
    ]
    return _render(
        "run.html",
        run.folder,
        run=run,
        verdict=verdict_of_a_run(run),
        rows=metric_rows(run),
        facts=facts(run),
        curves=curves,
        files=sorted({*run.files, PAGE}),
        texts=_texts(run.folder / _TEXTS),
        **_shared(run),
    )


def write_comparison(comparison: Comparison, folder: Path) -> Path:
    """Write ``report.html`` for a comparison.

    Args:
        comparison: the runs; the monitor's panels are of the first in target space.
        folder: where the page goes; pages of the runs below it are linked.

    Returns:
        The file.
    """
    watched, *others = comparison.metrics
    # a value at the end alone is no curve; the table has it
    curved = [{m.name for m in others if any(len(c) > 1 for c in side.curves(m.name))} for side in comparison.sides]
    others = [metric for metric in others if metric.name in set.union(*curved)]
    curves = [Picture.drawn(f"{watched.label} against {x}", draw_metric, comparison, watched, x) for x in AXES]
    curves += [Picture.drawn(f"{metric.label} against steps", draw_metric, comparison, metric) for metric in others]
    runs = [run for side in comparison.sides for run in side.runs]
    return _render(
        "comparison.html",
        folder,
        comparison=comparison,
        verdict=verdict(comparison),
        about=list(comparison.target.runs[0].remarks.items()),
        trials=[] if comparison.tuning is None else comparison.tuning.rows(),
        rows=compare_table.rows(comparison),
        notes=compare_table.notes(comparison),
        curves=curves,
        runs=[(run, os.path.relpath(run.folder / PAGE, folder)) for run in runs],
        weight=comparison.weight.runs[0],
        **_shared(comparison.target.runs[0]),
    )


def _shared(run: Run) -> dict[str, Any]:
    """What both pages show of a run."""
    settings = run.settings.get("target_space")
    return {
        "target": run,
        "pictures": [Picture.read(file.stem.replace("_", " "), _smaller(file)) for file in run.pictures],
        "layers": monitor.layers(run.history),
        "panels": monitor.panels(run.history),
        "settings": list(_flat(settings)) if isinstance(settings, Mapping) else [],
    }


def _render(template: str, folder: Path, **content: Any) -> Path:
    environment = Environment(
        loader=PackageLoader("ts_lightning.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    file = folder / PAGE
    file.write_text(environment.get_template(template).render(content), encoding="utf-8")
    return file


def _smaller(png: Path) -> Path:
    """The picture as SVG, which is sharp at every size, unless that is large: it holds pictures then anyway."""
    svg = png.with_suffix(".svg")
    return svg if svg.is_file() and svg.stat().st_size <= 2 * png.stat().st_size else png


def _flat(settings: Mapping[str, Any], head: str = "") -> Iterator[tuple[str, str]]:
    """Settings within settings, by names with dots."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield f"{head}{name}", "none" if value is None else str(value)


def _texts(file: Path) -> list[list[str]]:
    """The head of a file of texts and its first rows; empty where there is none."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [row for _, row in zip(range(_MOST_TEXTS + 1), csv.reader(lines), strict=False)]
