"""Whether weights look like a random draw: uniform, normal, truncated normal or orthogonal, of the usual scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

TELLING = 2000  # entries of a weight from which a draw and trained weights cannot be mistaken for each other
_ENTRIES = 100_000  # of a weight that are looked at
_SIDE = 256  # of the block whose singular values are looked at
_DISTANCE = 2.2  # of Kolmogorov and Smirnov, which one draw in 8,000 exceeds
_FIXED = (0.001, 0.01, 0.02, 0.05, 0.1, 1.0)  # standard deviations that people give to normal_
_GAINS = (1 / math.sqrt(3), 1.0, math.sqrt(2), 5 / 3)
_OWN = len(_FIXED)  # among the scales of a weight, that of PyTorch's own draw


def within(values: Tensor, bound: float) -> bool:
    """Whether no value is beyond a bound, up to rounding."""
    return float(values.detach().abs().max()) <= bound * (1 + 4 * torch.finfo(values.dtype).eps)


def drawn(weight: Tensor, bound: float, usual: bool) -> bool:
    """Whether a weight looks like a random draw.

    Args:
        weight: the weight.
        bound: of the layer's own draw.
        usual: whether other usual draws are looked at. In small layers with biases that are not zero they cannot be
            told from trained weights.
    """
    values = _values(weight)
    if within(weight, bound) and _distance(values, lambda x: (x / bound + 1) / 2) < _DISTANCE:
        return True
    if not usual:
        return False
    form = _form(weight, values)
    if form != "independent":
        return form == "orthogonal"
    std, n = _deviation(values), len(values)
    if n < TELLING and min(abs(std / scale - 1) for scale in _scales(weight)) > 4 / math.sqrt(2 * n):
        return False
    return _of_usual_form(values)


def of_one_draw(weights: Sequence[Tensor]) -> bool:
    """Whether weights, taken together, look like one usual draw, as of a loop over layers.

    Their standard deviations are the same, or follow one rule by their sizes. The rule of PyTorch's own draw does not
    count: weights that were trained from there keep to it for a while.
    """
    independent: list[tuple[Tensor, Tensor]] = []
    for weight in weights:
        entries = _values(weight)
        form = _form(weight, entries)
        if form == "structured":
            return False
        if form == "independent":
            independent.append((weight, entries))
    values = [entries for _, entries in independent]
    if sum(map(len, values)) < TELLING:
        return False
    rules = list(zip(*(_scales(weight) for weight, _ in independent), strict=True))
    del rules[_OWN]
    rules.append((_deviation(torch.cat(values)),) * len(values))
    for rule in rules:
        scaled = [each / scale for each, scale in zip(values, rule, strict=True)]
        if all(abs(_deviation(each) - 1) < 4 / math.sqrt(2 * len(each)) for each in scaled):
            return _of_usual_form(torch.cat(scaled))
    return False


def _values(weight: Tensor) -> Tensor:
    """Those entries of a weight that are looked at, in float64."""
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _ENTRIES)].double().cpu()


def _deviation(values: Tensor) -> float:
    return float(values.std(correction=0))


def _form(weight: Tensor, values: Tensor) -> Literal["orthogonal", "independent", "structured"]:
    """Whether a weight has the mean and singular values of independent draws around zero; a permutation is structured.

    Args:
        weight: the weight.
        values: its entries that are looked at.
    """
    matrix = weight.detach().reshape(len(weight), -1)[:_SIDE, :_SIDE].double().cpu()
    singular = torch.linalg.svdvals(matrix)
    if min(matrix.shape) > 1 and float(singular[-1]) > 0.999 * float(singular[0]):
        return "orthogonal" if bool((values != 0).all()) else "structured"
    std = float(values.square().mean().sqrt())  # around zero: few numbers of one sign may lie close together by chance
    if _deviation(values) == 0 or abs(float(values.mean())) > 5 * std / math.sqrt(len(values)):
        return "structured"
    rows, columns = matrix.shape
    edge = (math.sqrt(rows) + math.sqrt(columns)) * std * (1 + 1.5 * min(rows, columns) ** (-2 / 3))
    return "independent" if float(singular[0]) <= edge else "structured"


def _of_usual_form(values: Tensor) -> bool:
    """Whether values are distributed uniformly, normally, or normally within two standard deviations."""
    std, n = _deviation(values), len(values)
    top = float(values.abs().max())
    uniform = _distance(values, lambda x: (x / top + 1) / 2) < _DISTANCE and int((values.abs() > 0.9 * top).sum()) > (
        0.1 * n - 4 * math.sqrt(0.1 * n)
    )
    normal = _distance(values, lambda x: torch.special.ndtr(x / std)) < _DISTANCE
    low = float(torch.special.ndtr(torch.tensor(-2.0)))
    cut = (
        _distance(values, lambda x: ((torch.special.ndtr(x / std * 0.8796) - low) / (1 - 2 * low)).clamp(0, 1))
        < _DISTANCE
    )
    return uniform or normal or cut


def _distance(values: Tensor, cumulative: object) -> float:
    """Kolmogorov and Smirnov's distance between values and a distribution, times the root of their number."""
    assert callable(cumulative)
    n = len(values)
    expected = cumulative(values.sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    largest = max(float((expected - steps[:-1]).max()), float((steps[1:] - expected).max()))
    return largest * math.sqrt(n)


def _scales(weight: Tensor) -> list[float]:
    """The standard deviations that the usual random starts give to a weight."""
    fan_out, fan_in = len(weight), weight.numel() // len(weight)
    if weight.dim() > 2:
        fan_out *= weight[0, 0].numel()
    fans = (fan_in, fan_out, (fan_in + fan_out) / 2)
    return [*_FIXED, *(gain / math.sqrt(fan) for fan in fans for gain in _GAINS)]
