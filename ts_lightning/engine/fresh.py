"""Whether a layer's weights are those of a fresh start, or something that a user has put there.

A start is fresh if the weights look like a random draw: of the layer's own ``reset_parameters``, or uniform, normal,
truncated normal or orthogonal of any of the usual scales, with biases as drawn, at zero or all at one small number.
Weights that were trained leave the bounds of their draw, grow tails and singular values beyond those of a random
matrix; zero, constant and structured weights and other biases are no draw at all. Small layers tell little: they count
as fresh only where no other layer of the model looks trained. Least of all do small weights that functions apply, whose
draw nobody knows: they are fresh but for constants.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ts_lightning.layers.base import TargetLayer

Verdict = Literal["fresh", "given", "trained"]

_TELLING = 2000  # entries of a weight from which a draw and trained weights cannot be mistaken for each other
_ENTRIES = 100_000  # of a weight that are looked at
_SIDE = 256  # of the block whose singular values are looked at
_DISTANCE = 2.2  # of Kolmogorov and Smirnov, which one draw in 8,000 exceeds
_SMALL = 0.11  # above the biases that people give to all outputs alike, 0.01 or 0.1
_FIXED = (0.001, 0.01, 0.02, 0.05, 0.1, 1.0)  # standard deviations that people give to normal_
_GAINS = (1 / math.sqrt(3), 1.0, math.sqrt(2), 5 / 3)


def given_layers(layers: Sequence[TargetLayer], loaded: Collection[nn.Parameter] = ()) -> set[str]:
    """The names of the layers whose weights ``init="auto"`` keeps.

    Args:
        layers: what is solved.
        loaded: parameters that are known to have been loaded, whatever they look like.
    """
    known = {id(parameter) for parameter in loaded}
    verdicts = {
        layer.name: "trained" if any(id(p) in known for p in layer.wholes) else verdict(layer) for layer in layers
    }
    # biases of one's own in several layers are those of training; in one they may be priors
    trained = "trained" in verdicts.values() or list(verdicts.values()).count("given") > 1
    small = {layer.name for layer in layers if max(p.numel() for p in layer.parameters) < _TELLING}
    return {name for name, found in verdicts.items() if found != "fresh" or (trained and name in small)}


@torch.no_grad()
def verdict(layer: TargetLayer) -> Verdict:
    """What a layer's weights look like: "given" where a user wrote values that are neither drawn nor trained."""
    matrices = [p for p in layer.parameters if p.dim() > 1]
    vectors = [p for p in layer.parameters if p.dim() == 1]
    recurrent = isinstance(layer.module, nn.RNNBase | nn.RNNCellBase)
    bound = 1 / math.sqrt(_fan(layer.module, matrices[0]) if matrices else 1)
    if any(p.numel() > 1 and bool((p == p.reshape(-1)[0]).all()) for p in matrices):
        return "given"
    zero = all(_even(p) for p in vectors)
    unknown = layer.by_function and not isinstance(layer.module, (nn.Linear, nn.modules.conv._ConvNd))
    if unknown and all(p.numel() < _TELLING for p in layer.parameters):
        return "fresh"
    # biases at one, as of an LSTM's forget gate, beside others at zero or as drawn
    forgets = recurrent and all(bool(((p == 0) | (p == 1)).all()) for p in vectors)
    drawn = all(_drawn(p, bound, zero or forgets or p.numel() >= _TELLING) for p in matrices)
    if not drawn:
        return "trained"
    others = [p[p != 1] if recurrent else p for p in vectors]
    return "fresh" if zero or all(_within(p, bound) for p in others if len(p)) else "given"


def _fan(module: nn.Module, weight: Tensor) -> int:
    """What ``reset_parameters`` divides by: weight and bias are uniform within one over its root."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return module.hidden_size
    if isinstance(module, nn.Bilinear):
        return module.in1_features
    # of a transposed convolution (in, out / groups, *kernel), this is the outputs' side, as PyTorch has it
    return max(1, weight.numel() // len(weight))


def _even(bias: Tensor) -> bool:
    """Whether a bias is zero, or the same small number for all of several outputs."""
    first = float(bias[0])
    return bool((bias == first).all()) and (first == 0 or (len(bias) > 1 and abs(first) <= _SMALL))


def _within(values: Tensor, bound: float) -> bool:
    return float(values.abs().max()) <= bound * (1 + 4 * torch.finfo(values.dtype).eps)


def _drawn(weight: Tensor, bound: float, usual: bool) -> bool:
    """Whether a weight looks like a random draw.

    Args:
        weight: the weight.
        bound: of the layer's own draw.
        usual: whether other usual draws are looked at. In small layers with biases that are not zero they cannot be
            told from trained weights.
    """
    flat = weight.detach().reshape(-1)
    values = flat[:: max(1, flat.numel() // _ENTRIES)].double().cpu()
    if _within(weight, bound) and _distance(values, lambda x: (x / bound + 1) / 2) < _DISTANCE:
        return True
    if not usual:
        return False
    matrix = weight.detach().reshape(len(weight), -1)[:_SIDE, :_SIDE].double().cpu()
    singular = torch.linalg.svdvals(matrix)
    if min(matrix.shape) > 1 and float(singular[-1]) > 0.999 * float(singular[0]):
        return bool((values != 0).all())  # orthogonal; a permutation is no draw
    std, n = float(values.std(correction=0)), len(values)
    if std == 0 or abs(float(values.mean())) > 5 * std / math.sqrt(n):
        return False
    rows, columns = matrix.shape
    edge = (math.sqrt(rows) + math.sqrt(columns)) * std * (1 + 1.5 * min(rows, columns) ** (-2 / 3))
    if float(singular[0]) > edge:
        return False
    scales = _scales(weight)
    if n < _TELLING and min(abs(std / scale - 1) for scale in scales) > 4 / math.sqrt(2 * n):
        return False
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
