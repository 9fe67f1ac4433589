"""Dense layers of one shape between two untanglings: one product gives the weights of all.

No layer waits for another, so that L of them are a batch: P' (L, N, d), targets T (L, N, m), and W' = T'P' unit
(L, m, d), whose first columns are the weights and whose last one is the biases. Targets are copied into place by one
call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ts_lightning.engine.kept_layer import KeptLayer
from ts_lightning.layers.linear import LinearTargets


class KeptStack:
    """What is kept of dense layers of one shape.

    Args:
        layers: the layers, whose maps are explicit and become parts of the stack's.
        targets: by layer name.
    """

    def __init__(self, layers: Sequence[KeptLayer], targets: Mapping[str, Tensor]) -> None:
        self.layers = [kept.layer for kept in layers if isinstance(kept.layer, LinearTargets)]
        self.parameters = [p for layer in self.layers for p in layer.parameters]
        self._names = [layer.name for layer in self.layers]
        maps = [kept.maps[0] for kept in layers]
        self._p = torch.stack([one.transposed for one in maps if one.transposed is not None])
        for one, part in zip(maps, self._p, strict=True):
            one.transposed = part
        count, rows, columns = self._p.shape
        width = self.layers[0].width
        self._units = self._p.new_tensor([layer.unit for layer in self.layers]).view(-1, 1, 1)
        self._t = self._p.new_empty(count, rows, width)
        # in the targets' precision, since all processes send the same, whatever form their maps have
        like = targets[self._names[0]].dtype
        self._w = self._p.new_empty(count, width, columns, dtype=like)
        self._shapes = [targets[name].shape for name in self._names]
        self._ts = [part.view(shape) for part, shape in zip(self._t, self._shapes, strict=True)]
        self._values = self._parts(self._w)
        self._offsets: Tensor | None = None
        if any(kept.offsets for kept in layers):
            self._offsets = torch.zeros_like(self._w)
            given = [kept.offsets or [torch.zeros_like(p) for p in kept.layer.parameters] for kept in layers]
            torch._foreach_copy_(self._parts(self._offsets), [offset for own in given for offset in own])

    @staticmethod
    def takes(kept: KeptLayer) -> bool:
        """Whether a layer is a weight, over a bias where it has one, by an explicit map, and its W in one piece."""
        layer, held = kept.layer, kept.maps[0].transposed
        if held is None or not isinstance(layer, LinearTargets):
            return False
        own = (layer.kept_targets, layer.kept_values, layer.pack)  # also of a class that extends the family
        theirs = (LinearTargets.kept_targets, LinearTargets.kept_values, LinearTargets.pack)
        if tuple(getattr(method, "__func__", None) for method in own) != theirs:
            return False
        weight = _parts(layer, held.new_empty(layer.width, held.shape[-1]))[0]
        return weight._is_view() and weight.shape == layer.parameters[0].shape

    @staticmethod
    def shape(kept: KeptLayer, target: Tensor) -> tuple[object, ...]:
        """What the layers of one stack have in common."""
        held = kept.maps[0].transposed
        assert held is not None
        return held.shape, held.dtype, held.device, target.dtype, kept.layer.width

    def apply(self, targets: Mapping[str, Tensor]) -> dict[str, list[Tensor]]:
        """P T (d, m) by layer name, until the next call; this process's share."""
        torch._foreach_copy_(self._ts, [targets[name] for name in self._names])
        t = self._t.mul_(self._units).mT
        if self._w.dtype == self._p.dtype:
            torch.bmm(t, self._p, out=self._w)
        else:
            self._w.copy_(t @ self._p)
        return {name: [w.mT] for name, w in zip(self._names, self._w, strict=True)}

    def values(self) -> list[Tensor]:
        """The values of the parameters, for what :meth:`apply` gave, once it is summed over the processes."""
        if self._offsets is not None:
            self._w.add_(self._offsets)
        return self._values

    def _parts(self, w: Tensor) -> list[Tensor]:
        """The parameters' parts of (L, m, d)."""
        return [part for layer, own in zip(self.layers, w, strict=True) for part in _parts(layer, own)]


def _parts(layer: LinearTargets, w: Tensor) -> list[Tensor]:
    """The weight's and the bias's part of (m, d)."""
    if layer.bias is None:
        return [layer.arranged(w)]
    return [layer.arranged(w[:, :-1]), w[:, -1]]
