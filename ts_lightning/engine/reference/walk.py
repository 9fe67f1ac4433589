"""One walk through the layers of a model on the reference batch, in runs of its forward: one, and one for every loop.

Each layer is visited once, when what it depends on is solved. From then on it runs with the values that the visit gave.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.reference.call_sites import refused_call, unfit_site
from ts_lightning.engine.reference.calls import Calls
from ts_lightning.engine.reference.loops import Force, LoopRun, loops_of
from ts_lightning.engine.running.batches import mapped
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer
from ts_lightning.ridge.precision import cast, without_autocast

#: stands for a layer's forward where it is visited: (layer, its input) -> values of its parameters, what it passes on
Solve = Callable[[TargetLayer, Any], tuple[Sequence[Tensor], Any]]


class Walk:
    """One walk.

    Args:
        layers: to visit.
        visit: a layer.
        force: says what the layers of a loop pass on until they are visited.
        waiting: says what other layers pass on until they are visited, on which nothing depends until then.
        late: by layer name what binds a layer, with its input, at its first visit; emptied.
        constant: whether inputs are taken as constants.
        bound: whether layers have the rows that they are bound to.
        checked: whether it is known that layers are called where they can be solved.

    Attributes:
        solved: what the visits gave, by layer name, in their order.
        values: the same, by id of the parameters.
        inputs: each layer with its input, unless ``checked``.
        loops: the layers of each loop, by stage.
    """

    def __init__(
        self,
        layers: Sequence[TargetLayer],
        visit: Solve,
        force: Force,
        waiting: Force,
        late: dict[str, Callable[[TargetLayer, Any], None]],
        *,
        constant: bool,
        bound: bool,
        checked: bool,
    ) -> None:
        self.solved: dict[str, Sequence[Tensor]] = {}
        self.values: dict[int, Tensor] = {}
        self.inputs: list[tuple[TargetLayer, Any]] = []
        self.loops = loops_of(layers)
        self._layers, self._visit, self._force, self._waiting = layers, visit, force, waiting
        self._late = late
        self._constant, self._bound, self._checked = constant, bound, checked
        self._run = LoopRun((), force, waiting)
        self._stage: float = math.inf  # of the present run; layers of a later one wait for others
        self._calls: Counter[str] = Counter()  # in the present run

    @property
    def ended(self) -> bool:
        """Whether every layer was visited."""
        return len(self.solved) == len(self._layers)

    def begin(self, stage: int | None) -> None:
        """A run begins, to the end of the loop of this stage; None for the last run, to the end of the forward."""
        self._calls.clear()
        self._stage = math.inf if stage is None else stage
        self._run = LoopRun(() if stage is None else self.loops[stage], self._force, self._waiting)

    def end(self) -> None:
        """The run has ended: its loop is visited."""
        for layer, x in self._run.joined():
            self._solve(layer, x)

    def use(self, layer: TargetLayer, x: Any, calls: Calls) -> Any:
        """What stands for a use of a layer.

        Raises:
            TargetSpaceError: the layer cannot be solved there, has other rows, or depends on derivatives.
        """
        call = self._calls[layer.name]
        self._calls[layer.name] += 1
        beside = call in layer.beside
        if layer.name in self.solved and not beside:
            if layer.uses == 1 and call:
                raise _reused(layer)
            return layer.produce(x, self.solved[layer.name])
        if beside or layer.stage > self._stage:
            with torch.no_grad():
                return self._waiting(layer, x, 0)
        why = None if self._checked else unfit_site()
        if why is not None:
            raise refused_call(layer, why)
        try:
            layer.expect_noise(x, calls.noise)
            return self._run.use(layer, x) if layer.name in self._run else self._solve(layer, x)
        except TargetSpaceError as error:
            if not calls.derivatives.asked:
                raise
            raise derived(layer) from error

    def _solve(self, layer: TargetLayer, x: Any) -> Any:
        """Visit a layer; returns what it passes on."""
        if layer.name in self._late:
            self._late.pop(layer.name)(layer, x)
        if self._bound:
            _check_rows(layer, x)
        if not self._checked:
            self.inputs.append((layer, x))
        x = _apart(x)
        if self._constant:
            x = _without_graph(layer, x)
        with without_autocast(layer.parameters[0].device):  # which the model may have entered
            self.solved[layer.name], passed = self._visit(layer, x)
        pairs = zip(layer.parameters, self.solved[layer.name], strict=True)
        self.values.update({id(parameter): cast(value, parameter.dtype) for parameter, value in pairs})
        return passed


def derived(layer: TargetLayer) -> TargetSpaceError:
    """The error of a layer behind derivatives."""
    return TargetSpaceError(
        f"layer '{layer.name}' receives derivatives that forward computes by autograd; weights cannot be solved from "
        f"these. Add '{layer.module_name}' to exclude."
    )


def _apart(x: Any) -> Any:
    """A layer's input; a copy of a leaf with gradients, which forward may move along these, past its version."""
    given = x if isinstance(x, Tensor) else getattr(x, "data", None)  # of sequences
    if not isinstance(given, Tensor):
        return x
    whole = given if given._base is None else given._base
    return x.clone() if whole.is_leaf and whole.requires_grad else x


def _without_graph(layer: TargetLayer, x: Any) -> Any:
    """A layer's input without its graph."""
    if isinstance(x, (list, tuple, Mapping)):
        return mapped(x, Tensor.detach)
    if not hasattr(x, "detach"):
        raise TargetSpaceError(
            f"layer '{layer.name}' is given a {type(x).__name__}, which has no method detach() as tensors have it, and "
            f"cascade_gradient=False takes inputs as constants. Give the class one, or use cascade_gradient=True."
        )
    return x.detach()


def _reused(layer: TargetLayer) -> TargetSpaceError:
    """The error of a layer that is used twice, and was used once."""
    return TargetSpaceError(
        f"layer '{layer.module_name}' is used twice in one forward; it was used once when training started, and "
        f"gradients would be wrong in part. Add '{layer.module_name}' to exclude."
    )


def _check_rows(layer: TargetLayer, x: Any) -> None:
    found = layer.places(x)
    if found != layer.binding.places:
        raise TargetSpaceError(
            f"layer '{layer.name}' is applied at {tuple(found)} places of the reference batch; found "
            f"{tuple(layer.binding.places)} when training started, and its targets are for these. Its rows depend on "
            f"what is trained: add '{layer.module_name}' to exclude."
        )
