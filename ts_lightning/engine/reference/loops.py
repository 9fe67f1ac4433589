"""Loops of a model: what their layers pass on until they are solved, and the run of the model up to a loop's end.

In a walk over the reference batch the model runs once for every loop, up to the last use of its layers, which pass on
their targets; then they are solved, and in further runs they run as solved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.loop import Loop, LoopableLayer, loop_of

#: what a layer passes on at a use of its loop: (layer, its input, which use) -> what the next layer receives
Force = Callable[[Any, Any, int], Any]


class LoopEnded(BaseException):
    """All uses of a loop have been seen, and nothing behind them is of interest; ends the model's forward."""


def as_they_are(layer: TargetLayer, x: Any, use: int) -> Any:
    """What a layer passes on with the weights that it has."""
    return layer.produce(x, [parameter.detach() for parameter in layer.parameters])


class OnTargets:
    """The layers of loops pass on their targets.

    Args:
        targets: by layer name, in the layers' units.
        kept: the names of layers that pass on what they give with the weights that they have.
    """

    def __init__(self, targets: Mapping[str, Tensor], kept: Collection[str] = ()) -> None:
        self._targets, self._kept = targets, kept
        self._parts: dict[str, tuple[Tensor, ...]] = {}

    def __call__(self, layer: LoopableLayer, x: Any, use: int) -> Any:
        """What the layer passes on."""
        if layer.name in self._kept:
            return as_they_are(layer, x, use)
        parts = self._parts.get(layer.name)
        if parts is None:
            # split and not indexed, so that the gradients are put together in one go
            parts = layer.forced_by(self._targets[layer.name]).chunk(layer.joined_uses, layer.sample_axis(x))
            self._parts[layer.name] = parts
        return layer.forced(x, parts[use])


class LoopRun:
    """One run of the model up to the end of a loop.

    Args:
        layers: of the loop.
        force: says what those pass on whose later inputs depend on it.
        waiting: says what the others pass on, on which nothing in the loop depends.
    """

    def __init__(self, layers: Sequence[LoopableLayer], force: Force, waiting: Force) -> None:
        self._layers, self._force, self._waiting = {layer.name: layer for layer in layers}, force, waiting
        self._inputs: dict[str, list[Any]] = {}  # in the order of the first uses
        self._left = sum(layer.joined_uses for layer in layers)

    def __contains__(self, name: str) -> bool:
        return name in self._layers

    def use(self, layer: TargetLayer, x: Any) -> Any:
        """A use of a layer of the loop.

        Raises:
            LoopEnded: it was the last of all.
            TargetSpaceError: it is used more often than when training started.
        """
        own, inputs = self._layers[layer.name], self._inputs.setdefault(layer.name, [])
        if len(inputs) == own.joined_uses:
            raise _other_uses(own, "more")
        inputs.append(x.clone())  # which the forward may change in place
        self._left -= 1
        if self._left == 0:
            raise LoopEnded
        if own.loop is not None and own.loop.recurs:
            return self._force(own, x, len(inputs) - 1)
        with torch.no_grad():
            return self._waiting(own, x, len(inputs) - 1)

    def joined(self) -> list[tuple[LoopableLayer, Any]]:
        """The layers with their inputs of all uses, in the order of their first ones.

        Raises:
            TargetSpaceError: one was used less often than when training started.
        """
        for name, layer in self._layers.items():
            found = len(self._inputs.get(name, ()))
            if found < layer.joined_uses:
                raise _other_uses(layer, str(found))
        return [(self._layers[name], self._layers[name].joined(inputs)) for name, inputs in self._inputs.items()]


def _other_uses(layer: LoopableLayer, found: str) -> TargetSpaceError:
    return TargetSpaceError(
        f"layer '{layer.name}' had {layer.joined_uses} uses in a loop of forward when training started; found "
        f"{found}. Targets need the same uses at every step: add '{layer.module_name}' to exclude."
    )


def loops_of(layers: Sequence[TargetLayer]) -> dict[int, list[LoopableLayer]]:
    """The layers of each loop, by stage, in the order of these."""
    found: dict[int, list[LoopableLayer]] = {}
    for layer in layers:
        if isinstance(layer, LoopableLayer) and layer.loop is not None:
            found.setdefault(layer.stage, []).append(layer)
    return dict(sorted(found.items()))


def put_back_in_loops(layers: Sequence[TargetLayer], loops: Mapping[str, Sequence[int]]) -> None:
    """Tell layers the stages and loops of an earlier state, see :func:`loops_in_state`."""
    for layer in layers:
        if layer.name in loops:
            layer.stage, uses, recurs, added = loops[layer.name]
            if uses > 1 and isinstance(layer, LoopableLayer):
                layer.loop = Loop(uses, bool(recurs), bool(added))


def loops_in_state(layers: Sequence[TargetLayer]) -> dict[str, list[int]]:
    """Stage, uses in a loop (0 for none), whether it recurs and is added, by layer name; where all are 0, none."""
    found = {layer.name: (layer.stage, loop_of(layer)) for layer in layers}
    return {
        name: [stage, *((0, 0, 0) if loop is None else (loop.uses, int(loop.recurs), int(loop.added)))]
        for name, (stage, loop) in found.items()
        if stage or loop is not None
    }
