"""What is kept of a layer between two untanglings: the maps of its systems, and the way from P T to its parameters.

Everything is linear, so that no graph is built in a step. A dense layer with an explicit map is two products, for its
weight and for its bias. Of any other family one graph of what it does before P and after it is made for all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.linear import LinearTargets
from ts_lightning.ridge.kept import KeptMap
from ts_lightning.ridge.processes import Shards


@dataclass
class KeptLayer:
    """What is kept of a layer.

    Attributes:
        layer: the layer.
        maps: of its systems.
        offsets: what is added to its parameters, W0 - P A W0 where it is solved around W0; otherwise none.
    """

    layer: TargetLayer
    maps: list[KeptMap]
    offsets: list[Tensor]
    _shapes: list[torch.Size] = field(default_factory=list)  # of P T of each system
    _rearranged: _Rearranged | None = None

    @classmethod
    @torch.no_grad()
    def of(
        cls, layer: TargetLayer, maps: list[KeptMap], target: Tensor, values: Sequence[Tensor], shards: Shards | None
    ) -> KeptLayer:
        """What is kept behind a solve to ``values``."""
        kept = cls(layer, maps, [])
        if layer.anchor is not None:
            ws = kept.apply(target)
            if shards is not None:
                shards.sum(*ws)
            linear = kept.values(ws)
            kept.offsets = [value.detach() - own for value, own in zip(values, linear, strict=True)]
        return kept

    def settled(self, target: Tensor, period: int) -> KeptLayer:
        """The layer with its maps in the form that serves ``period`` solves best."""
        for one, t in zip(self.maps, self.layer.kept_targets(target), strict=True):
            one.settle(t.shape[-1], period)
        if not is_dense(self.layer) or self.maps[0].transposed is None:
            return self
        parts = torch.split(self.maps[0].transposed, [self.maps[0].transposed.shape[-1] - 1, 1], -1)
        return KeptDense(self.layer, [KeptMap(part.contiguous()) for part in parts], self.offsets)

    def apply(self, target: Tensor) -> list[Tensor]:
        """P T of each system, in the precision of the targets; this process's share."""
        ts = self.layer.kept_targets(target)
        ws = [one.apply(t.to(one.dtype)).to(t.dtype) for one, t in zip(self.maps, ts, strict=True)]
        self._shapes = [w.shape for w in ws]
        return ws

    def values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """The values of the parameters for P T of each system."""
        found = self.layer.kept_values(w)
        return [value + offset for value, offset in zip(found, self.offsets, strict=True)] if self.offsets else found

    def gradient(self, gradients: Sequence[Tensor], target: Tensor) -> Tensor:
        """dL/dT for gradients on all parameters, in the precision of the targets."""
        if self._rearranged is None:
            self._rearranged = _Rearranged.of(self.layer, self._shapes, target)
        return self._rearranged.gradient(self.maps, gradients)

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`of_state` makes it from."""
        return {"maps": [one.state_dict() for one in self.maps], "offsets": self.offsets}

    @classmethod
    def of_state(cls, layer: TargetLayer, state: Mapping[str, Any], device: torch.device) -> KeptLayer:
        """What the :meth:`state_dict` of a layer is of."""
        moved = [{key: tensor.to(device) for key, tensor in one.items()} for one in state["maps"]]
        maps = [KeptMap.of_state(one, layer.kept_inputs) for one in moved]
        offsets = [offset.to(device) for offset in state["offsets"]]
        return (KeptDense if len(maps) > 1 and is_dense(layer) else cls)(layer, maps, offsets)


class KeptDense(KeptLayer):
    """A dense layer by one map to its weight and one to its bias, so that nothing is split or put together."""

    layer: LinearTargets

    def settled(self, target: Tensor, period: int) -> KeptLayer:
        """Itself, whose maps are explicit."""
        return self

    def apply(self, target: Tensor) -> list[Tensor]:
        """P T of both, in the precision of the targets; this process's share."""
        (t,) = self.layer.kept_targets(target)
        t = t.to(self.maps[0].dtype)
        return [one.apply(t).to(target.dtype) for one in self.maps]

    def values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """Weight and bias."""
        found = [self.layer.arranged(w[0].mT), w[1].squeeze(0)]
        return [value + offset for value, offset in zip(found, self.offsets, strict=True)] if self.offsets else found

    def gradient(self, gradients: Sequence[Tensor], target: Tensor) -> Tensor:
        """dL/dT for gradients on weight and bias."""
        weight, bias = (g.to(self.maps[0].dtype) for g in gradients)
        ones = self.maps[1].transposed
        assert ones is not None
        found = self.maps[0].transpose(self.layer.flat(weight).mT).addr_(ones.squeeze(-1), bias)
        return found.to(target.dtype).view(target.shape).mul_(self.layer.unit)


def is_dense(layer: TargetLayer) -> bool:
    """Whether W is a weight over a bias, also by the methods of a class that extends the family."""
    own = (layer.kept_targets, layer.kept_values, *((layer.pack,) if isinstance(layer, LinearTargets) else ()))
    theirs = (LinearTargets.kept_targets, LinearTargets.kept_values, LinearTargets.pack)
    return tuple(getattr(method, "__func__", None) for method in own) == theirs and len(layer.parameters) > 1


class _Rearranged(NamedTuple):
    """The graphs of what a layer does to targets before P and to W after it, whose numbers do not matter."""

    target: Tensor
    ts: list[Tensor]
    ws: list[Tensor]
    values: list[Tensor]

    @classmethod
    @torch.enable_grad()
    def of(cls, layer: TargetLayer, shapes: Sequence[torch.Size], target: Tensor) -> _Rearranged:
        with torch.inference_mode(False):
            like = torch.zeros_like(target, requires_grad=True)
            ts = layer.kept_targets(like)
            ws = [t.new_zeros(shape, requires_grad=True) for shape, t in zip(shapes, ts, strict=True)]
            return cls(like, ts, ws, layer.kept_values(ws))

    def gradient(self, maps: Sequence[KeptMap], gradients: Sequence[Tensor]) -> Tensor:
        """The adjoint of the whole."""
        # a value may depend on no target: the redundant bias of a recurrent layer, kept at zero
        pairs = [(value, g) for value, g in zip(self.values, gradients, strict=True) if value.requires_grad]
        values, arriving = zip(*pairs, strict=True)
        gs = torch.autograd.grad(values, self.ws, arriving, retain_graph=True)
        back = [one.transpose(g.to(one.dtype)).to(g.dtype) for one, g in zip(maps, gs, strict=True)]
        return torch.autograd.grad(self.ts, self.target, back, retain_graph=True)[0]
