"""The table that compares both spaces: what was reached, how soon, and at what cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from ts_lightning.amount import amount
from ts_lightning.report.compare import Comparison, judged_metric
from ts_lightning.report.levels import first_at
from ts_lightning.report.units import Scale, Spread, counted, duration, memory, plain

Numbers = Sequence[float | None]


@dataclass(frozen=True)
class Row:
    """A row as text.

    Attributes:
        label: what is compared.
        target: in target space.
        weight: in weight space.
        ratio: target by weight space; empty where not every seed has a value, and for metrics.
    """

    label: str
    target: str
    weight: str
    ratio: str = ""


def rows(comparison: Comparison) -> list[Row]:
    """The rows of a comparison."""
    metric = comparison.metric
    judged = judged_metric(comparison)
    histories = [[run.history for run in side.runs] for side in comparison.sides]
    final = [[found.value for h in side if (found := h.final(metric.name))] for side in histories]
    best = [[found.value for h in side if (found := h.best(metric.name))] for side in histories]
    table = [
        Row(f"final {metric.label}", *_spreads(final, plain)),
        Row(f"best {metric.label}", *_spreads(best, plain)),
    ]
    if judged != metric:
        tested = [[found.value for h in side if (found := h.final(judged.name))] for side in histories]
        table.insert(0, Row(f"final {judged.label}", *_spreads(tested, plain)))
    curves = [[run.points(metric.name) for run in side.runs] for side in comparison.sides]
    firsts = {
        level: [[first_at(points, metric, level) for points in side] for side in curves] for level in comparison.levels
    }
    for level, sides in firsts.items():
        steps = [[point.step if point else None for point in side] for side in sides]
        table.append(_reached(f"steps to {level:g}", steps, counted))
    for level, sides in firsts.items():
        seconds = [[point.seconds if point else None for point in side] for side in sides]
        table.append(_reached(f"time to {level:g}", seconds, duration))
    summaries = [[run.summary for run in side.runs] for side in comparison.sides]
    first = [[summary.step_seconds for summary in side] for side in summaries]
    later = [[summary.later_step_seconds for summary in side] for side in summaries]
    if any(value is not None for side in later for value in side):  # where target space ended, as until says
        table += _cost("time per step in target space", first, duration)
        table += _cost("time per step behind it", [later[0], first[1]], duration)
    else:
        table += _cost("time per step", first, duration)
    table += _cost("training time", [[summary.seconds for summary in side] for side in summaries], duration)
    table += _cost("memory added", [[summary.peak_memory for summary in side] for side in summaries], memory)
    return table


def notes(comparison: Comparison) -> list[str]:
    """What a reader of the rows has to know."""
    lines = [*comparison.remarks, *([] if comparison.tuning is None else comparison.tuning.notes())]
    if any(len(side.runs) > 1 for side in comparison.sides):
        lines.append("Mean ± standard deviation over seeds.")
    if comparison.levels:
        lines.append(f"Steps and time to a level of {comparison.metric.label}: where it was first measured.")
    if any(run.summary.peak_memory is not None for side in comparison.sides for run in side.runs):
        lines.append("Memory added: the peak of training above what the process held before.")
    cells = [cell for row in rows(comparison) for cell in (row.target, row.weight)]
    if any(cell.endswith("seeds)") and not cell.startswith("not reached") for cell in cells):
        lines.append("Where not all seeds reached a level, the mean is over those that did: a lower bound.")
    for side in comparison.sides:
        if interrupted := sum(run.summary.interrupted for run in side.runs):
            lines.append(f"Interrupted in {side.space} space: {interrupted} of {amount(len(side.runs), 'seed')}.")
    return lines


def table(comparison: Comparison) -> str:
    """The comparison as text."""
    head = f"{comparison.title}: both spaces, {comparison.seeds}"
    grid = [Row("", "target space", "weight space", "target / weight"), *rows(comparison)]
    cells = [(row.label, row.target, row.weight, row.ratio) for row in grid]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([f"{label:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(others, widths[1:], strict=True))])
        for label, *others in cells
    ]
    return "\n".join(["", head, "-" * len(head), *map(str.rstrip, lines), "", *notes(comparison)])


def _spreads(
    sides: Sequence[Sequence[float]], scale: Callable[[float], Scale], none: str = "not measured"
) -> list[str]:
    """Mean and spread of each space, in one unit: that of the larger mean."""
    spreads = [Spread.of(values) for values in sides]
    largest = max((abs(spread.mean) for spread in spreads if spread and isfinite(spread.mean)), default=0.0)
    return [spread.text(scale(largest)) if spread else none for spread in spreads]


def _reached(label: str, sides: Sequence[Numbers], scale: Callable[[float], Scale]) -> Row:
    """How soon the seeds of each space came to a level; ``None`` for those that did not."""
    found = [[value for value in side if value is not None] for side in sides]
    cells = []
    for side, values, text in zip(sides, found, _spreads(found, scale, "not reached"), strict=True):
        missed = len(side) > 1 and len(values) < len(side)
        cells.append(f"{text} ({len(values)} of {amount(len(side), 'seed')})" if missed else text)
    return Row(label, cells[0], cells[1], _ratio(sides))


def _cost(label: str, sides: Sequence[Numbers], scale: Callable[[float], Scale]) -> list[Row]:
    """A row of what was measured in every seed of some space; none where it was measured nowhere."""
    if all(value is None for side in sides for value in side):
        return []
    target, weight = _spreads([[value for value in side if value is not None] for side in sides], scale)
    return [Row(label, target, weight, _ratio(sides))]


def _ratio(sides: Sequence[Numbers]) -> str:
    """The mean of target space by that of weight space, where every seed has a value."""
    target, weight = (Spread.of([value for value in side if value is not None]) for side in sides)
    if target is None or weight is None or None in [*sides[0], *sides[1]] or weight.mean == 0:
        return ""
    return f"{target.mean / weight.mean:.2f}"
