"""The maps W = P T of all layers: no layer waits for another, and all processes send one message.

Shapes as in ``ridge/kept.py``. Where processes share the reference batch each applies its columns of P to its targets,
and one sum of all layers' W makes the weights, the same bits in every process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.cuda_graphs import Solved
from ts_lightning.engine.kept_layer import KeptLayer
from ts_lightning.engine.kept_stack import KeptStack
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
        self._stacks: list[KeptStack] = []
        self._rest: list[KeptLayer] | None = None  # those of no stack

    @torch.no_grad()
    def solve(self, targets: Mapping[str, Tensor], period: int) -> Solved:
        """The parameters and their values, without a graph; valid until the next call.

        Args:
            targets: by layer name.
            period: how many solves the maps will serve at most.

        Raises:
            TargetSpaceError: the targets hold a NaN or an infinity.
        """
        if self._rest is None:
            self._rest = self._settle(targets, period)
        ws = {kept.layer.name: kept.apply(targets[kept.layer.name]) for kept in self._rest}
        for stack in self._stacks:
            ws.update(stack.apply(targets))
        # P is finite, and no product with targets whose norm is overflows
        norm = torch.stack(torch._foreach_norm([targets[kept.layer.name] for kept in self._layers])).sum()
        if self._shards is not None:
            # layer by layer, since the layers of one stack are those with as many rows here, and others elsewhere
            self._shards.sum(norm, *(w for kept in self._layers for w in ws[kept.layer.name]))
        if not math.isfinite(norm):
            self._complain(targets)
        solved: Solved = []
        for stack in self._stacks:
            solved.extend(zip(stack.parameters, stack.values(), strict=True))
        for kept in self._rest:
            solved.extend(zip(kept.layer.parameters, kept.values(ws[kept.layer.name]), strict=True))
        return solved

    def _settle(self, targets: Mapping[str, Tensor], period: int) -> list[KeptLayer]:
        """Make stacks of the layers that allow it; the others are returned."""
        rest: list[KeptLayer] = []
        groups: dict[Any, list[KeptLayer]] = {}
        for kept in self._layers:
            target = targets[kept.layer.name]
            kept.settle(target, period)
            (groups.setdefault(KeptStack.shape(kept, target), []) if KeptStack.takes(kept) else rest).append(kept)
        self._stacks = [KeptStack(group, targets) for group in groups.values()]
        return rest

    def _complain(self, targets: Mapping[str, Tensor]) -> None:
        """Raise TargetSpaceError about the first layer whose weights are not finite, in all processes alike."""
        for kept in self._layers:
            target = targets[kept.layer.name]
            for w in kept.apply(target):
                if self._shards is not None:
                    self._shards.sum(w)
                kept.layer.solver.check(w, target)
