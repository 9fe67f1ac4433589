"""The maps W = P T of all layers: no layer waits for another, and all processes send one message.

Shapes as in ``ridge/kept.py``. Where processes share the reference batch each applies its columns of P to its targets,
and one sum of all layers' W makes the weights, the same bits in every process.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.cuda_graphs import Solved
from ts_lightning.engine.untangle.kept_layer import KeptLayer
from ts_lightning.engine.untangle.kept_stack import KeptStack
from ts_lightning.ridge.processes import Shards


class KeptMaps:
    """The maps of the layers that an untangling went through, in its order.

    Args:
        layers: what is kept of them.
        stackable: the names of those that a stack takes.
        shards: the processes that share the reference batch; None where each has all of it.
    """

    def __init__(self, layers: Sequence[KeptLayer], stackable: Collection[str], shards: Shards | None) -> None:
        self._layers, self._stackable = list(layers), stackable
        self._shards = shards
        self._stacks: list[KeptStack] = []
        self._rest: list[KeptLayer] | None = None  # those of no stack

    @torch.no_grad()
    def solve(self, targets: Mapping[str, Tensor], times: int) -> Solved:
        """The parameters and their values, without a graph; valid until the next call.

        Args:
            targets: by layer name.
            times: how many products the maps will serve at most.

        Raises:
            TargetSpaceError: the targets hold a NaN or an infinity.
        """
        rest = self._settled(targets, times)
        ws = {kept.layer.name: kept.apply(targets[kept.layer.name]) for kept in rest}
        for stack in self._stacks:
            ws.update(stack.apply(targets))
        # P is finite, and no product with targets whose norm is overflows
        norm = torch.stack(torch._foreach_norm([targets[kept.layer.name] for kept in self._layers])).sum()
        if self._shards is not None:
            # layer by layer, since the layers of one stack are those with as many rows here, and others elsewhere
            self._shards.sum(norm, *(w for kept in self._layers for w in ws[kept.layer.name]))
        if not math.isfinite(norm):
            for kept in self._layers:  # the first one whose weights are not finite, in all processes alike
                for w in ws[kept.layer.name]:
                    kept.layer.solver.check(w, targets[kept.layer.name])
        solved: Solved = []
        for stack in self._stacks:
            solved.extend(zip(stack.parameters, stack.values(), strict=True))
        for kept in rest:
            solved.extend(zip(kept.layer.parameters, kept.values(ws[kept.layer.name]), strict=True))
        return solved

    @torch.no_grad()
    def pull(self, targets: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
        """The gradients on the targets of the layers in stacks for those on their weights, as if inputs were constants.

        Every process has the whole gradients on the weights, and those on its own targets.

        Args:
            targets: by layer name.
            times: how many products the maps will serve at most.
        """
        self._settled(targets, times)
        return {name: gradient for stack in self._stacks for name, gradient in stack.pull().items()}

    def _settled(self, targets: Mapping[str, Tensor], times: int) -> list[KeptLayer]:
        """Bring maps to their forms, and those that allow it to stacks, at the first call; the others are returned."""
        if self._rest is not None:
            return self._rest
        self._rest = rest = []
        groups: dict[Any, list[KeptLayer]] = {}
        for kept in self._layers:
            if kept.layer.name in self._stackable:
                groups.setdefault(KeptStack.shape(kept, targets[kept.layer.name]), []).append(kept)
            else:
                kept.settle(targets[kept.layer.name], times)
                rest.append(kept)
        self._stacks = [KeptStack(group, targets, times) for group in groups.values()]
        return rest
