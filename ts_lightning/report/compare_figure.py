"""The figure that compares both spaces: a metric against steps and against seconds, every seed and their mean."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from ts_lightning.amount import amount
from ts_lightning.report.compare import Comparison, Side
from ts_lightning.report.drawing import SPACES, axes, figure, literal, markers
from ts_lightning.report.history import Point, means
from ts_lightning.report.metric import Metric

Axis = Literal["steps", "seconds"]
AXES: tuple[Axis, Axis] = ("steps", "seconds")


def draw(comparison: Comparison, folder: Path) -> None:
    """Write ``comparison.png`` and ``comparison.svg``: the watched metric in both spaces, against steps and seconds."""
    title = literal(f"{comparison.title}: target space and weight space")
    with figure(folder / "comparison", title, [4.7, 4.7], 4.0) as panels:
        for panel, x in zip(panels, AXES, strict=True):
            draw_metric(panel, comparison, comparison.metric, x)
            panel.set_title(literal(f"{comparison.metric.label} against {x}"))


def draw_metric(panel: Any, comparison: Comparison, metric: Metric, x: Axis = "steps") -> None:
    """Draw a metric in both spaces.

    Args:
        panel: the axes.
        comparison: the runs.
        metric: one that they have.
        x: the horizontal axis; seconds are of training, without loading and validation.
    """
    values: list[float] = []
    for side in comparison.sides:
        curves = side.curves(metric.name)
        values += [point.value for points in curves for point in points]
        if len(curves) > 1:
            for points in curves:
                _line(panel, points, x, color=SPACES[side.space], linewidth=0.8, alpha=0.45)
        if mean := side.mean(metric.name):
            _line(panel, mean, x, label=_label(side, len(curves)), color=SPACES[side.space], linewidth=2.4)
    axes(panel, values, x=x, log=metric.smaller_is_better)
    if values:
        panel.legend(loc="best")


def _line(panel: Any, points: list[Point], x: Axis, **style: Any) -> None:
    groups = means(points)
    places = [[point.step if x == "steps" else point.seconds or 0.0 for point in group] for group in groups]
    values = [fmean(point.value for point in group) for group in groups]
    panel.plot([fmean(group) for group in places], values, **markers(values, few=1), markersize=4, **style)


def _label(side: Side, count: int) -> str:
    return f"{side.space} space" if count == 1 else f"{side.space} space, mean of {amount(count, 'seed')}"
