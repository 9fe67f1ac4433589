"""The maps W = P T of all layers, applied at once: equal shapes in one batched product, all processes in one message.

Shapes as in ``ridge/kept.py``. Where processes share the reference batch each applies its columns of P to its targets,
and one sum of all layers' W makes the weights, the same bits in every process. dL/dT = P'G needs no message: the
gradients on weights are those of the training loss, which are the same in every process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.engine.cuda_graphs import Solved
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

    @classmethod
    @torch.no_grad()
    def of(
        cls, layer: TargetLayer, maps: list[KeptMap], target: Tensor, values: Sequence[Tensor], shards: Shards | None
    ) -> KeptLayer:
        """What is kept behind a solve to ``values``."""
        if layer.anchor is None:
            return cls(layer, maps, [])
        ws = [one.apply(t.to(one.dtype)) for one, t in zip(maps, layer.kept_targets(target), strict=True)]
        if shards is not None:
            shards.sum(*ws)
        linear = layer.kept_values([w.to(target.dtype) for w in ws])
        return cls(layer, maps, [value.detach() - own for value, own in zip(values, linear, strict=True)])

    def values(self, w: Sequence[Tensor]) -> list[Tensor]:
        """The values of the parameters for P T of each system."""
        found = self.layer.kept_values(w)
        return [value + offset for value, offset in zip(found, self.offsets, strict=True)] if self.offsets else found

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`of_state` makes it from."""
        return {"maps": [one.state_dict() for one in self.maps], "offsets": self.offsets}

    @classmethod
    def of_state(cls, layer: TargetLayer, state: Mapping[str, Any], device: torch.device) -> KeptLayer:
        """What the :meth:`state_dict` of a layer is of."""
        moved = [{key: tensor.to(device) for key, tensor in one.items()} for one in state["maps"]]
        maps = [KeptMap.of_state(one, layer.kept_inputs) for one in moved]
        return cls(layer, maps, [offset.to(device) for offset in state["offsets"]])


class KeptMaps:
    """The maps of the layers that an untangling went through, in its order.

    Args:
        layers: what is kept of them.
        shards: the processes that share the reference batch; None where each has all of it.
    """

    def __init__(self, layers: Sequence[KeptLayer], shards: Shards | None) -> None:
        self._layers = layers
        self._maps = [one for kept in layers for one in kept.maps]
        self._shards = shards
        self._groups: list[tuple[list[int], KeptMap]] = []

    def solve(self, targets: Mapping[str, Tensor], period: int) -> Solved:
        """The parameters and their values, differentiable in the targets.

        Args:
            targets: by layer name.
            period: how many solves the maps will serve at most.

        Raises:
            TargetSpaceError: the targets hold a NaN or an infinity.
        """
        flat = [t for kept in self._layers for t in kept.layer.kept_targets(targets[kept.layer.name])]
        if not self._groups:
            self._settle(flat, period)
        found: Any = iter(_Products.apply(self, *flat))  # type: ignore[no-untyped-call]
        solved: Solved = []
        for kept in self._layers:
            values = kept.values(list(islice(found, len(kept.maps))))
            solved.extend(zip(kept.layer.parameters, values, strict=True))
        return solved

    def apply(self, ts: Sequence[Tensor]) -> list[Tensor]:
        """W of every system, each in the precision of its targets."""
        parts = [
            one.apply(ts[at[0]].to(one.dtype) if len(at) == 1 else torch.stack([ts[i] for i in at]).to(one.dtype))
            for at, one in self._groups
        ]
        if self._shards is not None:
            self._shards.sum(*parts)
        if not math.isfinite(sum(part.sum(dtype=torch.float64) for part in parts)):  # type: ignore[arg-type]
            self._complain(parts, ts)
        return [w.to(t.dtype) for w, t in zip(self._ungrouped(parts), ts, strict=True)]

    def transpose(self, gs: Sequence[Tensor | None], ts: Sequence[Tensor]) -> list[Tensor | None]:
        """dL/dT of every system for its dL/dW, None for zero, in the precision and shape of its targets."""
        found: list[Tensor | None] = [None] * len(gs)
        for at, one in self._groups:
            arrived = [i for i in at if gs[i] is not None]
            if not arrived:
                continue
            if len(at) == 1:
                found[at[0]] = one.transpose(gs[at[0]].to(one.dtype)).to(ts[at[0]].dtype)  # type: ignore[union-attr]
                continue
            like = gs[arrived[0]]
            assert like is not None
            given = [g if g is not None else torch.zeros_like(like) for g in (gs[i] for i in at)]
            stacked = torch.stack([g.mT for g in given]).mT.to(one.dtype)  # laid out as weights' gradients are
            for i, part in zip(at, one.transpose(stacked), strict=True):
                found[i] = part.to(ts[i].dtype)
        return found

    def _settle(self, ts: Sequence[Tensor], period: int) -> None:
        """Choose each map's form, and put together those of equal shapes."""
        shapes: dict[Any, list[int]] = {}
        for index, (one, t) in enumerate(zip(self._maps, ts, strict=True)):
            one.settle(t.shape[-1], period)
            held = one.transposed
            key = index if held is None else (held.shape, held.dtype, t.shape, t.dtype)
            shapes.setdefault(key, []).append(index)
        for at in shapes.values():
            first = self._maps[at[0]]
            if len(at) > 1:
                stacked = torch.stack([self._maps[i].transposed for i in at])  # type: ignore[misc]
                for i, part in zip(at, stacked, strict=True):
                    self._maps[i].transposed = part
                first = KeptMap(stacked)
            self._groups.append((at, first))

    def _ungrouped(self, parts: Sequence[Tensor]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for (at, _), part in zip(self._groups, parts, strict=True):
            found.update(zip(at, [part] if len(at) == 1 else part.unbind(0), strict=True))
        return [found[index] for index in range(len(found))]

    def _complain(self, parts: Sequence[Tensor], ts: Sequence[Tensor]) -> None:
        """Raise TargetSpaceError about the first layer whose weights are not finite."""
        layers = [kept.layer for kept in self._layers for _ in kept.maps]
        for layer, w, t in zip(layers, self._ungrouped(parts), ts, strict=True):
            layer.solver.check(w, t)

    def state_dict(self) -> dict[str, Any]:
        """What is kept by layer name."""
        return {kept.layer.name: kept.state_dict() for kept in self._layers}

    @classmethod
    def of_state(
        cls, state: Mapping[str, Any], layers: Sequence[TargetLayer], device: torch.device, shards: Shards | None
    ) -> KeptMaps:
        """The maps that the :meth:`state_dict` of these layers is of."""
        named = {layer.name: layer for layer in layers}
        return cls([KeptLayer.of_state(named[name], one, device) for name, one in state.items()], shards)


class _Products(torch.autograd.Function):
    """T of every system -> W of every system."""

    @staticmethod
    def forward(ctx: Any, maps: KeptMaps, *ts: Tensor) -> tuple[Tensor, ...]:
        ctx.maps, ctx.like = maps, [t.detach()[..., :0, :] for t in ts]
        ctx.set_materialize_grads(False)
        return tuple(maps.apply(ts))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gs: Tensor | None) -> Any:
        return None, *ctx.maps.transpose(gs, ctx.like)
