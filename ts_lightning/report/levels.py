"""How soon a run reaches a level of a metric, and which levels are worth asking about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from ts_lightning.report.history import Point
from ts_lightning.report.metric import Metric

#: of the way from the first value to the best
_SHARES = (0.5, 0.8, 1.0)

_SLACK = 1e-9

Curves = Sequence[Sequence[Point]]


def first_at(points: Sequence[Point], metric: Metric, level: float) -> Point | None:
    """The first measurement that is as good as the level; ``None`` if there is none."""
    return next((point for point in points if metric.reaches(point.value, level)), None)


def default_levels(metric: Metric, spaces: Sequence[Curves]) -> list[float]:
    """Levels to compare spaces at, the easiest first.

    Half-way, four fifths and all of the way to the mean best value of the space that gets less far, and the mean best
    of the other; rounded to two digits, and to more where these would not tell the levels from each other, towards
    what is easier. Losses, which fall by factors, are divided in factors.

    Args:
        metric: what was measured.
        spaces: of each space, the curve of every seed; those without a finite value are left out.
    """
    choose = min if metric.smaller_is_better else max
    finite = [[values for curve in space if (values := _finite(curve))] for space in spaces]
    bests = sorted((fmean(choose(values) for values in space) for space in finite if space), reverse=choose is min)
    if not bests:
        return []
    start = fmean(values[0] for space in finite for values in space)
    worse, better = bests[0], bests[-1]
    if choose is min and min(start, better) > 0:
        wanted = [start * (worse / start) ** share for share in _SHARES] + [better]
        levels = [_rounded(level, _decimals(level), up=True) for level in wanted]
    else:
        wanted = [start + share * (worse - start) for share in _SHARES] + [better]
        decimals = _decimals(start, worse, better)
        levels = [_rounded(level, decimals, up=choose is min) for level in wanted]
    return sorted(set(levels), reverse=choose is min)


def _finite(curve: Sequence[Point]) -> list[float]:
    return [point.value for point in curve if math.isfinite(point.value)]


def _decimals(*values: float) -> int:
    """The decimals to round to: two digits of the largest value, or as many as the first step between values needs."""
    largest, first = max(map(abs, values)), abs(values[1] - values[0]) / 2 if len(values) > 1 else 0
    coarse = 1 - math.floor(math.log10(largest)) if largest else 0
    return max(coarse, math.ceil(-math.log10(first) - _SLACK)) if first else coarse


def _rounded(level: float, digits: int, *, up: bool) -> float:
    """The level with so many decimals, towards what is easier."""
    units = level * 10.0**digits
    slack = _SLACK * max(abs(units), 1)  # 0.29 times 100 is a little less than 29
    return round((math.ceil(units - slack) if up else math.floor(units + slack)) / 10.0**digits, max(digits, 0))
