"""The curves of one run: a panel for each quantity, with training and test in one where both were measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ts_lightning.report.drawing import SPLITS, axes, figure, literal, markers
from ts_lightning.report.history import History, Point, means
from ts_lightning.report.metric import Metric
from ts_lightning.report.run import Run

#: panels of the figure; the report has all
_PANELS = 4


def quantities(history: History) -> dict[str, list[Metric]]:
    """The metrics that share a panel, by their quantity: accuracies first, then losses, training alone last."""
    shared: dict[str, list[Metric]] = {}
    for metric in history.metrics:
        shared.setdefault(metric.quantity, []).append(metric)

    def place(quantity: str) -> tuple[bool, bool, bool]:
        metrics = shared[quantity]
        return (
            all(metric.split == "training" for metric in metrics),
            not metrics[0].is_accuracy,
            "loss" not in quantity,
        )

    return {quantity: shared[quantity] for quantity in sorted(shared, key=place)}


def draw(run: Run) -> None:
    """Write ``figure.png`` and ``figure.svg``: the first four quantities of a run against its steps."""
    shown = list(quantities(run.history).items())[:_PANELS]
    with figure(run.folder / "figure", literal(run.summary.title), [4.7] * max(len(shown), 1), 4.0) as panels:
        for panel, (quantity, metrics) in zip(panels, shown, strict=False):
            draw_quantity(panel, run.history, metrics)
            panel.set_title(literal(quantity))
        if not shown:
            panels[0].text(0.5, 0.5, "nothing was measured", ha="center", transform=panels[0].transAxes)
            panels[0].set_axis_off()


def draw_quantity(panel: Any, history: History, metrics: Sequence[Metric]) -> None:
    """Draw what was measured of one quantity against steps.

    Args:
        panel: the axes.
        history: the run's.
        metrics: those of this quantity.
    """
    drawn: list[Point] = []
    for metric in sorted(metrics, key=lambda metric: (metric.split != "training", metric.name)):
        points = history.points(metric.name)
        drawn += points
        if metric.split == "training":
            fine = metric.per == "step" and any(other.per == "epoch" for other in metrics)
            _draw_training(panel, points, metric, alpha=0.45 if fine else 1.0)
        else:
            draw_line(panel, points, metric.split, SPLITS[metric.split])
    axes(panel, [point.value for point in drawn], log=metrics[0].smaller_is_better)
    if drawn:
        panel.legend(loc="best")


def draw_line(panel: Any, points: Sequence[Point], label: str | None, colour: str, **style: Any) -> None:
    """Draw points against steps, with a marker each where they are few."""
    values = [point.value for point in points]
    style = {"linewidth": 1.8, "markersize": 3, **markers(values, few=40), **style}
    panel.plot([point.step for point in points], values, label=label, color=colour, **style)


def _draw_training(panel: Any, points: Sequence[Point], metric: Metric, alpha: float) -> None:
    """Values of single batches are noisy: where they are many, their mean over neighbours and their range."""
    groups = means(points)
    size = len(groups[0]) if groups else 1
    steps = [fmean(point.step for point in group) for group in groups]
    name = f"training, every {metric.per}" if metric.per else "training"
    label = name if size == 1 else f"{name} (mean and range of {size})"
    values = [fmean(point.value for point in group) for group in groups]
    style = {"linewidth": 1.2, "alpha": alpha, "markersize": 3, **markers(values, few=2)}
    panel.plot(steps, values, label=label, color=SPLITS["training"], **style)
    if size > 1:
        low, high = ([choose(point.value for point in group) for group in groups] for choose in (min, max))
        panel.fill_between(steps, low, high, color=SPLITS["training"], alpha=0.2 * alpha, linewidth=0)
