"""What is kept of a layer between two untanglings: the maps of its systems, and the way from P T to its parameters.

Everything is linear, so that no graph is built in a step: one graph of what a layer does before P and after it is made
for all steps. Dense layers need none, see ``kept_stack.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ts_lightning.layers.base import TargetLayer
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

    def settle(self, target: Tensor, period: int) -> None:
        """Bring the maps to the form that serves ``period`` solves best."""
        for one, t in zip(self.maps, self.layer.kept_targets(target), strict=True):
            one.settle(t.shape[-1], period)

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
        return cls(layer, maps, offsets)


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
