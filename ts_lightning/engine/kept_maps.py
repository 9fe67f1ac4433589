"""The maps W = P T of all layers: no layer waits for another, and all processes send one message.

Shapes as in ``ridge/kept.py``. Where processes share the reference batch each applies its columns of P to its targets,
and one sum of all layers' W makes the weights, the same bits in every process. dL/dT = P'G needs no message: the
gradients on weights are those of the training loss, which are the same in every process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.cuda_graphs import Solved
from ts_lightning.engine.kept_layer import KeptLayer
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.processes import Shards


class KeptMaps:
    """The maps of the layers that an untangling went through, in its order.

    Args:
        layers: what is kept of them.
        shards: the processes that share the reference batch; None where each has all of it.
    """

    def __init__(self, layers: Sequence[KeptLayer], shards: Shards | None) -> None:
        self._layers = list(layers)
        self._shards = shards
        self._settled = False

    @torch.no_grad()
    def solve(self, targets: Mapping[str, Tensor], period: int) -> Solved:
        """The parameters and their values, without a graph; valid until the next call.

        Args:
            targets: by layer name.
            period: how many solves the maps will serve at most.

        Raises:
            TargetSpaceError: the targets hold a NaN or an infinity.
        """
        if not self._settled:
            self._settled = True
            self._layers = [kept.settled(targets[kept.layer.name], period) for kept in self._layers]
        ws = [kept.apply(targets[kept.layer.name]) for kept in self._layers]
        # P is finite, and no product with targets whose norm is overflows
        norm = torch.stack(torch._foreach_norm([targets[kept.layer.name] for kept in self._layers])).sum()
        if self._shards is not None:
            self._shards.sum(norm, *(w for own in ws for w in own))
        if not math.isfinite(norm):
            self._complain(ws, targets)
        solved: Solved = []
        for kept, own in zip(self._layers, ws, strict=True):
            solved.extend(zip(kept.layer.parameters, kept.values(own), strict=True))
        return solved

    def gradients(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """dL/dT by layer name for the gradients on the layers' parameters, where there are any."""
        found: dict[str, Tensor] = {}
        for kept in self._layers:
            parameters = kept.layer.parameters
            if any(p.grad is not None for p in parameters):
                target = targets[kept.layer.name]
                arrived = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
                found[kept.layer.name] = kept.gradient([g.to(target.dtype) for g in arrived], target)
        return found

    def _complain(self, ws: Sequence[Sequence[Tensor]], targets: Mapping[str, Tensor]) -> None:
        """Raise TargetSpaceError about the first layer whose weights are not finite, in all processes alike."""
        for kept, own in zip(self._layers, ws, strict=True):
            for w in own:
                kept.layer.solver.check(w, targets[kept.layer.name])

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
