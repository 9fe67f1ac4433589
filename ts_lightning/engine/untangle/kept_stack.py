"""What is kept of dense layers of one shape: one product gives the weights of all, and one their targets' gradients.

No layer waits for another, so that L of them are a batch: maps P of (L, N, d), targets T (L, N, m), and W' = T'P' unit
(L, m, d), whose first columns are the weights and whose last one is the biases. Targets are copied into place by one
call, and so are gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

from ts_lightning.engine.untangle.kept_layer import KeptLayer
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.linear import LinearTargets, has_methods
from ts_lightning.ridge.kept import FactoredMap
from ts_lightning.ridge.precision import cast


class KeptStack:
    """What is kept of dense layers of one shape.

    Args:
        layers: the layers, which :meth:`fits`; their maps, of one :meth:`shape`, become the stack's.
        targets: by layer name.
        times: how many products the maps will serve at most.
    """

    def __init__(self, layers: Sequence[KeptLayer], targets: Mapping[str, Tensor], times: int) -> None:
        self.layers = [kept.layer for kept in layers if isinstance(kept.layer, LinearTargets)]
        self.parameters = [p for layer in self.layers for p in layer.parameters]
        self._names = [layer.name for layer in self.layers]
        maps = [one for kept in layers for one in kept.maps if isinstance(one, FactoredMap)]
        for kept in layers:
            kept.maps = []
        width = self.layers[0].width
        self.map = type(maps[0]).stacked(maps).settled(width, times)
        like = targets[self._names[0]]
        self._shapes = [targets[name].shape for name in self._names]
        self._units = [layer.unit for layer in self.layers]
        # in the targets' precision, since all processes send the same, whatever form their maps have
        self._w = like.new_empty(len(self.layers), width, _columns(self.layers[0]))
        self._t: Tensor | None = None
        self._values: list[Tensor] = []
        self._offsets: Tensor | None = None
        if any(kept.offsets for kept in layers):
            self._offsets = torch.zeros_like(self._w)
            given = [kept.offsets or [torch.zeros_like(p) for p in kept.layer.parameters] for kept in layers]
            torch._foreach_copy_(self._parts(self._offsets), [offset for own in given for offset in own])

    @staticmethod
    def fits(layer: TargetLayer) -> bool:
        """Whether a layer is a weight, over a bias where it has one, and its W in one piece."""
        if not isinstance(layer, LinearTargets):
            return False
        if not has_methods(layer, LinearTargets, "solve", "kept_targets", "kept_values", "pack"):
            return False
        w = layer.parameters[0].new_empty(layer.width, _columns(layer))
        weight = _parts(layer, w)[0]
        in_place = weight.untyped_storage().data_ptr() == w.untyped_storage().data_ptr()
        return in_place and weight.shape == layer.parameters[0].shape

    @staticmethod
    def shape(kept: KeptLayer, target: Tensor) -> tuple[object, ...]:
        """What the layers of one stack have in common; a large one has a stack of its own, where A is not copied."""
        (held,) = kept.maps
        assert isinstance(held, FactoredMap)
        alone = None if held.small else kept.layer.name
        return *held.form(), target.dtype, target.numel(), kept.layer.width, alone

    def apply(self, targets: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """P T (d, m) by layer name, until the next call; this process's share."""
        if self._t is None:
            width, dtype = self.layers[0].width, self.map.dtype
            self._t = self._w.new_empty(len(self.layers), self._shapes[0].numel() // width, width, dtype=dtype)
            self._ts = [part.view(shape) for part, shape in zip(self._t, self._shapes, strict=True)]
            self._scale = torch.tensor(self._units, dtype=dtype, device=self._w.device).view(-1, 1, 1)
        torch._foreach_copy_(self._ts, [targets[name] for name in self._names])
        self.map.apply(self._t.mul_(self._scale), out=self._w)
        return {name: [w.mT] for name, w in zip(self._names, self._w, strict=True)}

    def values(self) -> list[Tensor]:
        """The values of the parameters, for what :meth:`apply` gave, once it is summed over the processes."""
        if self._offsets is not None:
            self._w.add_(self._offsets)
        self._values = self._values or self._parts(self._w)
        return self._values

    def pull(self) -> dict[str, Tensor]:
        """The gradients on the targets, by layer name, for those on the weights; of layers that have any."""
        found = {layer.name for layer in self.layers if any(p.grad is not None for p in layer.parameters)}
        if not found:
            return {}
        g = torch.zeros_like(self._w, dtype=self.map.dtype)
        arrived = [
            (part, p.grad) for part, p in zip(self._parts(g), self.parameters, strict=True) if p.grad is not None
        ]
        torch._foreach_copy_([part for part, _ in arrived], [gradient for _, gradient in arrived])
        # each in memory of its own, since gradients are tensors that are changed in place
        own = torch._foreach_mul(list(self.map.pull(g.mT)), self._units)
        every = zip(self._names, own, self._shapes, strict=True)
        return {name: cast(gradient, self._w.dtype).view(shape) for name, gradient, shape in every if name in found}

    def _parts(self, w: Tensor) -> list[Tensor]:
        """The parameters' parts of (L, m, d)."""
        return list(chain.from_iterable(_parts(layer, own) for layer, own in zip(self.layers, w, strict=True)))


def _columns(layer: LinearTargets) -> int:
    """d, the bias's column among them."""
    return int(layer.inputs + (layer.bias is not None))


def _parts(layer: LinearTargets, w: Tensor) -> list[Tensor]:
    """The weight's and the bias's part of (m, d)."""
    if layer.bias is None:
        return [layer.arranged(w)]
    return [layer.arranged(w[:, :-1]), w[:, -1]]
