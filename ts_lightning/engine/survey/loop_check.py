"""Whether a walk solves every layer from what the forward gives it: a check of loops with random weights.

Values are followed through PyTorch's functions (``dependence.py``), and not through TorchScript, ``torch.vmap``, NumPy
or Python's numbers. What is missed there shows in a walk in which the layers that wait to be solved have other weights
than when they are: some layer is then given something else than in a forward, where all have the same ones. In a second
walk the layers of loops that recur pass on something else, too, which only these may be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.reference.dependence import tensors_of
from ts_lightning.engine.reference.reference_batch import ReferenceBatch
from ts_lightning.engine.reference.reference_pass import ReferencePass
from ts_lightning.engine.survey.random_weights import random_weights
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.loop import LoopableLayer, loop_of, recurs

_SAME = 1e-5  # of the norm of an input, up to which it is the same

#: values of the parameters of layers, by name
Weights = Mapping[str, list[Tensor]]


def missed_sources(batch: ReferenceBatch, layers: Sequence[TargetLayer]) -> dict[str, set[str]]:
    """What :func:`_missed_with` gives of random weights, where layers are in loops; of their own, if it fails."""
    if not any(map(loop_of, layers)):
        return {}
    generator = torch.Generator().manual_seed(0)
    random, other = (random_weights(layers, generator) for _ in range(2))
    own = {layer.name: [p.detach() for p in layer.parameters] for layer in layers}
    half = {name: [p / 2 for p in values] for name, values in own.items()}
    for values, others in ((random, other), (own, half)):
        try:
            return _missed_with(batch, layers, values, others)
        except Exception:  # of a forward that checks its numbers
            continue
    return {}


@torch.no_grad()
def _missed_with(
    batch: ReferenceBatch, layers: Sequence[TargetLayer], values: Weights, others: Weights
) -> dict[str, set[str]]:
    """By name, the layers that are given something else in a walk, and the names of those that it may come from.

    Args:
        batch: the reference batch.
        layers: those that it can solve.
        values: the weights that they have.
        others: those until they are visited in a walk.
    """
    run, check = ReferencePass(batch, layers), _Check(values, others)
    run.run(check.see, layers)
    run.walk(check.visit, force=check.force, waiting=check.wait, bound=False)
    run.walk(check.visit_outside, force=check.wait, waiting=check.wait, bound=False)
    return check.missed


class _Check:
    """What stands for the layers' uses in a forward and in the walk behind it.

    Attributes:
        missed: see :func:`_missed_with`.
    """

    def __init__(self, values: Weights, others: Weights) -> None:
        self.missed: dict[str, set[str]] = {}
        self._values, self._others = values, others
        self._given: dict[str, list[Any]] = {}
        self._waiting: set[str] = set()

    def see(self, layer: TargetLayer, x: Any, calls: Calls) -> Any:
        """A use in the forward."""
        given = self._given.setdefault(layer.name, [])
        if loop_of(layer) is not None:
            given.append(x.clone())  # which the forward may change in place
        elif not given:
            given += [tensor.clone() for tensor in tensors_of(x)]
        return layer.produce(x, self._values[layer.name])

    def force(self, layer: LoopableLayer, x: Any, use: int) -> Any:
        """A use in a loop that recurs."""
        return layer.produce(x, self._values[layer.name])

    def wait(self, layer: TargetLayer, x: Any, use: int) -> Any:
        """A use ahead of the visit, on which nothing depends that is visited before, as far as is known."""
        self._waiting.add(layer.name)
        return layer.produce(x, self._others[layer.name])

    def visit_outside(self, layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
        """A visit where loops pass on something else."""
        if not recurs(layer):
            return self.visit(layer, x)
        self._waiting.discard(layer.name)
        return self._values[layer.name], None

    def visit(self, layer: TargetLayer, x: Any) -> tuple[list[Tensor], Any]:
        """A visit."""
        expected: Any = self._given[layer.name]
        if isinstance(layer, LoopableLayer) and layer.loop is not None:
            expected = layer.joined(expected)
        if self._waiting and not all(map(same, tensors_of(x), tensors_of(expected))):
            self.missed.setdefault(layer.name, set()).update(self._waiting)
        self._waiting.discard(layer.name)
        return self._values[layer.name], layer.produce(x, self._values[layer.name])


def same(found: Tensor, expected: Tensor) -> bool:
    """Whether two inputs are the same, up to rounding."""
    if found.shape != expected.shape:
        return False
    found, expected = (
        tensor.nan_to_num().to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (found, expected)
    )
    return bool((found - expected).norm() <= _SAME * expected.norm())
