"""Who else has to do with solved weights: optimizers that step them, and other target spaces.

Steps are looked at before they are made: of weights that are solved, and of targets without gradients.

A step of weights that are solved from targets leaves these as they are, which is a warning. One of targets whose
gradients still stand on the weights does nothing, which is an error.
Weights are solved by one space at a time, since each would write over what another one solved.
"""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from ts_lightning.engine.steps.optimizers import trained_by
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer


class _Steps(Protocol):
    def solved_now(self) -> Sequence[tuple[str, nn.Parameter]]:
        """The solved weights with the names of their modules; none once the space is released."""

    def check(self, optimizer: Optimizer) -> None:
        """Look ahead of a step of an optimizer that trains targets."""


class _Space(Protocol):
    model: nn.Module

    @property
    def stepping(self) -> _Steps:
        """The steps of all its optimizers."""

    @property
    def targets(self) -> Mapping[str, nn.Parameter]:
        """The targets by layer name."""


_spaces: weakref.WeakSet[Any] = weakref.WeakSet()
#: by optimizer, the spaces that it trains, found at its first step
_trained: weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Any]] = weakref.WeakKeyDictionary()
_handle: Any = None


def watch(space: _Space) -> None:
    """Look at the steps of optimizers for as long as the space lives and holds a solution."""
    global _handle
    _spaces.add(space)
    _trained.clear()
    if _handle is None:
        _handle = register_optimizer_step_pre_hook(_look)


def look_again(optimizer: Optimizer) -> None:
    """Look at an optimizer's next step as at its first, since it was given targets."""
    _trained.pop(optimizer, None)


def check_alone(model: nn.Module, layers: Sequence[TargetLayer]) -> None:
    """Look whether layers are solved by a space that lives and was not released.

    Raises:
        TargetSpaceError: they are.
    """
    if not _solved_elsewhere(layers):
        return
    gc.collect()  # a space that nobody holds any more waits for it, since its parts are in cycles
    found = _solved_elsewhere(layers)
    if found:
        other, names = found
        more = ", ..." if len(names) > 5 else ""
        raise TargetSpaceError(
            f"{', '.join(names[:5])}{more} of {type(model).__name__}: found in another TargetSpace, of "
            f"{type(other.model).__name__}; expected layers that one space solves, since each would overwrite the "
            f"weights of the other. Go on with that one, or call its release() before (the end of a fit does), or "
            f"exclude these layers."
        )


def _solved_elsewhere(layers: Sequence[TargetLayer]) -> tuple[_Space, list[str]] | None:
    """A space that holds a solution of some of the layers, and their names."""
    for space in list(_spaces):
        solved = {id(p) for _, p in space.stepping.solved_now()}
        names = [layer.name for layer in layers if any(id(p) in solved for p in layer.wholes)]
        if names:
            return space, names
    return None


def _look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer not in _trained:
        _trained[optimizer] = weakref.WeakSet()
        parameters = trained_by(optimizer)
        for space in list(_spaces):
            if any(id(target) in parameters for target in space.targets.values()):
                _trained[optimizer].add(space)
            _warn_of_weights(optimizer, parameters, space)
    for space in list(_trained[optimizer]):
        space.stepping.check(optimizer)


def _warn_of_weights(optimizer: Optimizer, parameters: Collection[int], space: _Space) -> None:
    names = list(dict.fromkeys(name for name, p in space.stepping.solved_now() if id(p) in parameters))
    if names:
        warnings.warn(
            f"{type(optimizer).__name__} steps the weights of {', '.join(names[:5])}, which are solved from targets, "
            f"and does not train these. Give it space.parameters(), or call space.substitute(optimizer) before its "
            f"first step; to go on in weight space, call space.release().",
            stacklevel=5,
        )
