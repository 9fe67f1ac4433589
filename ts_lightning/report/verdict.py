"""A run, or a comparison of both spaces, in words: what was reached, after how many steps, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt
from statistics import fmean, stdev

from ts_lightning.amount import amount
from ts_lightning.report.compare import Comparison, Side, judged_metric
from ts_lightning.report.levels import first_at
from ts_lightning.report.metric import Metric
from ts_lightning.report.run import Run
from ts_lightning.report.units import duration, plain

#: measurements of a curve below which it does not tell how soon a level was reached
_FEWEST = 3


def verdict(comparison: Comparison) -> str:
    """What each space reached by the last value of the metric, on test data where there are some, else as watched.

    Several seeds tell which space is ahead: the one whose mean is better by more than two standard errors. A second
    sentence says after how many steps the space that got further in the watched metric had the other's best.
    """
    metric = judged_metric(comparison)
    target, weight = (_finals(side, metric) for side in comparison.sides)
    if not target or not weight:
        missing = " and ".join(f"{name} space" for name, found in (("target", target), ("weight", weight)) if not found)
        return f"No verdict: {metric.label} was not measured in {missing}."
    steps = [fmean(run.summary.steps for run in side.runs) for side in comparison.sides]
    after = [f" after {amount(count, 'step')}" for count in steps]
    if steps[0] == steps[1]:
        after[1] = ""
    lead = f"{ahead} in {metric.label}" if (ahead := _lead(metric, target, weight)) else metric.label.capitalize()
    told = f"{lead}: target space {_shown(metric, target)}{after[0]}, weight space {_shown(metric, weight)}{after[1]}"
    seeds = f" (means of {comparison.seeds})" if max(len(target), len(weight)) > 1 else " (one seed)"
    times = [[_step_seconds(run) for run in side.runs] for side in comparison.sides]
    if any(value is None for side in times for value in side):
        return f"{told}{seeds}.{_sooner(comparison)}"
    ratio = fmean(value or 0 for value in times[0]) / fmean(value or 0 for value in times[1])
    return f"{told}{seeds}; {ratio:.1f} times the time a step.{_sooner(comparison)}"


def _step_seconds(run: Run) -> float | None:
    """The median step; where target space ended, the mean of the medians, each for the steps that it stands for."""
    summary = run.summary
    first, later = summary.step_seconds, summary.later_step_seconds
    if later is None or first is None or summary.until is None:
        return first if later is None else later
    share = min(summary.until / summary.steps, 1)
    return share * first + (1 - share) * later


def verdict_of_a_run(run: Run) -> str:
    """What the run reached in its first metric: on test data where there are some, else on validation data."""
    steps, seconds = run.summary.steps, run.summary.seconds
    spent = f"after {amount(steps, 'step')} and {duration(seconds)(seconds)} of training in {run.summary.spaces}"
    measured = sorted(run.history.measured, key=lambda metric: (not metric.is_accuracy, metric.split != "test"))
    for metric in measured:
        if (final := run.history.final(metric.name)) is not None:
            return f"{metric.label.capitalize()} is {_shown(metric, [final.value])} {spent}."
    return f"Nothing was measured {spent}."


def _finals(side: Side, metric: Metric) -> list[float]:
    return [final.value for run in side.runs if (final := run.history.final(metric.name)) is not None]


def _sooner(comparison: Comparison) -> str:
    """After how many steps each space had the lesser of the two bests of the watched metric, by means over seeds."""
    metric = comparison.metric
    curves = [side.mean(metric.name) for side in comparison.sides]
    choose = min if metric.smaller_is_better else max
    bests = [choose((point.value for point in curve if isfinite(point.value)), default=None) for curve in curves]
    if min(map(len, curves)) < _FEWEST or bests[0] is None or bests[1] is None:
        return ""
    level = (max if metric.smaller_is_better else min)(bests[0], bests[1])
    firsts = [first_at(curve, metric, level) for curve in curves]
    if firsts[0] is None or firsts[1] is None:
        return ""
    whose = "Weight" if bests[1] == level else "Target"
    return (
        f" {whose} space's best {metric.label}, {_shown(metric, [level])}, was reached after "
        f"{amount(firsts[0].step, 'step')} "
        f"in target space and {firsts[1].step:,} in weight space."
    )


def _shown(metric: Metric, values: Sequence[float]) -> str:
    mean = fmean(values)
    percent = metric.is_accuracy and all(0 <= value <= 1 for value in values)
    return f"{100 * mean:.1f} %" if percent else plain(mean)(mean)


def _lead(metric: Metric, target: Sequence[float], weight: Sequence[float]) -> str:
    """Which space is ahead, where several seeds can tell."""
    gain = fmean(target) - fmean(weight)
    if not isfinite(gain):
        return "A space diverged"
    if min(len(target), len(weight)) < 2:
        return ""
    error = sqrt(stdev(target) ** 2 / len(target) + stdev(weight) ** 2 / len(weight))
    if abs(gain) <= 2 * error:
        return "No clear difference"
    return f"{'Target' if (gain > 0) != metric.smaller_is_better else 'Weight'} space is ahead"
