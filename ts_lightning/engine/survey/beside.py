"""Calls of layers beside the solves: whether what they give reaches an input that a layer is solved from.

A forward calls a layer so ahead of the plain call at which it is solved (pseudo-labels under ``torch.no_grad``, the
action of the next state), or with other weights than its own (a moving average by ``functional_call``, an inner loop).
The pass over the reference batch has no solved weights for these calls. They run with those that the layer has, which
is right where only losses depend on them: whatever they give, every layer is solved from the same inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.reference.call_sites import refused_call
from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.reference.dependence import tensors_of
from ts_lightning.engine.reference.reference_batch import ReferenceBatch
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.survey.loop_check import same
from ts_lightning.engine.survey.random_weights import random_weights
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.loop import loop_of


def leave_what_matters(
    batch: ReferenceBatch,
    layers: Sequence[TargetLayer],
    apart: Mapping[str, str],
    refusals: dict[str, tuple[str, TargetSpaceError]],
) -> None:
    """Refuse layers with calls beside the solves, if a layer is solved from other inputs with other weights there.

    Args:
        batch: the reference batch.
        layers: of its model.
        apart: why a layer cannot be solved at some of its calls, in a few words, by name.
        refusals: to which these are added: in a few words, and as an error.
    """
    beside = [layer for layer in layers if layer.beside]
    if beside and _matter(batch, layers, beside):
        for layer in beside:
            why = apart[layer.name]
            refusals.setdefault(layer.name, (why, refused_call(layer, why)))


@torch.enable_grad()  # as in a solve
def _matter(batch: ReferenceBatch, layers: Sequence[TargetLayer], beside: Sequence[TargetLayer]) -> bool:
    generator = torch.Generator().manual_seed(0)
    try:
        expected = _inputs(batch, layers, {})
        found = [_inputs(batch, layers, random_weights(beside, generator)) for _ in range(2)]
    except Exception:  # of a forward that checks its numbers, so that something depends on them
        return True
    return any(
        given.keys() != expected.keys()
        or any(len(xs) != len(expected[name]) or not all(map(same, xs, expected[name])) for name, xs in given.items())
        for given in found
    )


def _inputs(
    batch: ReferenceBatch, layers: Sequence[TargetLayer], others: Mapping[str, Sequence[Tensor]]
) -> dict[str, list[Tensor]]:
    """What each layer is solved from, by name; ``others`` stand for the weights of calls beside the solves."""
    found: dict[str, list[Tensor]] = {}
    calls: Counter[str] = Counter()

    def use(layer: TargetLayer, x: Any, _: Calls) -> Any:
        own = [parameter.detach() for parameter in layer.parameters]
        call = calls[layer.name]
        calls[layer.name] += 1
        if call in layer.beside:
            return layer.produce(x, others.get(layer.name, own))
        if layer.name not in found or loop_of(layer) is not None:
            found.setdefault(layer.name, []).extend(tensor.detach().clone() for tensor in tensors_of(x))
        return layer.produce(x, own)

    ReferencePass(batch, layers).run(use, layers)
    return found
