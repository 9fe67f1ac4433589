"""Whether a layer's weights are those of a fresh start, or something that a user has put there.

A start is fresh if the weights look like a random draw: of the layer's own ``reset_parameters``, or uniform, normal,
truncated normal or orthogonal of any of the usual scales, with biases as drawn, at zero or all at one small number.
Weights that were trained leave the bounds of their draw, grow tails and singular values beyond those of a random
matrix; zero, constant and structured weights and other biases are no draw at all. Small layers tell little: they count
as fresh only where no other layer of the model looks trained. Those of one kind are therefore looked at together, too:
one draw of them all is a start. Least of all do small weights tell that functions apply, whose draw nobody knows: they
are fresh but for constants.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ts_lightning.engine.draws import TELLING, drawn, of_one_draw, within
from ts_lightning.layers.base import TargetLayer

Verdict = Literal["fresh", "given", "trained"]

_SMALL = 0.11  # above the biases that people give to all outputs alike, 0.01 or 0.1


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
    for kind in {type(layer.module) for layer in layers if verdicts[layer.name] == "trained"}:
        alike = [layer for layer in layers if type(layer.module) is kind and verdicts[layer.name] != "given"]
        if any(id(p) in known for layer in alike for p in layer.wholes):
            continue
        if of_one_draw([p for layer in alike for p in _matrices(layer) if not drawn(p, _bound(layer), usual=False)]):
            verdicts.update({layer.name: verdict(layer, one_draw=True) for layer in alike})
    # biases of one's own in several layers are those of training; in one they may be priors
    trained = "trained" in verdicts.values() or list(verdicts.values()).count("given") > 1
    small = {layer.name for layer in layers if max(p.numel() for p in layer.parameters) < TELLING}
    return {name for name, found in verdicts.items() if found != "fresh" or (trained and name in small)}


@torch.no_grad()
def verdict(layer: TargetLayer, *, one_draw: bool = False) -> Verdict:
    """What a layer's weights look like: "given" where a user wrote values that are neither drawn nor trained.

    Args:
        layer: the layer.
        one_draw: whether its weights are known to be drawn, with others.
    """
    matrices, bound = _matrices(layer), _bound(layer)
    vectors = [p for p in layer.parameters if p.dim() == 1]
    recurrent = isinstance(layer.module, nn.RNNBase | nn.RNNCellBase)
    if any(p.numel() > 1 and bool((p == p.reshape(-1)[0]).all()) for p in matrices):
        return "given"
    zero = all(_even(p) for p in vectors)
    unknown = layer.by_function and not isinstance(layer.module, (nn.Linear, nn.modules.conv._ConvNd))
    if unknown and all(p.numel() < TELLING for p in layer.parameters):
        return "fresh"
    # biases at one, as of an LSTM's forget gate, beside others at zero or as drawn
    forgets = recurrent and all(bool(((p == 0) | (p == 1)).all()) for p in vectors)
    if not one_draw and not all(drawn(p, bound, zero or forgets or p.numel() >= TELLING) for p in matrices):
        return "trained"
    others = [p[p != 1] if recurrent else p for p in vectors]
    return "fresh" if zero or all(within(p, bound) for p in others if len(p)) else "given"


def _matrices(layer: TargetLayer) -> list[Tensor]:
    return [p for p in layer.parameters if p.dim() > 1]


def _bound(layer: TargetLayer) -> float:
    """Of the layer's own draw, which is uniform within it."""
    matrices = _matrices(layer)
    return 1 / math.sqrt(_fan(layer.module, matrices[0]) if matrices else 1)


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
