"""Steps of optimizers, looked at before they are made: of weights that are solved, and of targets without gradients.

A step of weights that are solved from targets is undone by the next solve, which is a warning. One of targets whose
gradients still stand on the weights does nothing, which is an error.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook


class _Space(Protocol):
    def solved_now(self) -> Sequence[tuple[str, nn.Parameter]]:
        """The solved weights with the names of their modules; none once the space is released."""

    @property
    def targets(self) -> Mapping[str, nn.Parameter]:
        """The targets by layer name."""

    def check_step(self, optimizer: Optimizer) -> None:
        """Look ahead of a step of an optimizer that trains targets."""


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


def _look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer not in _trained:
        _trained[optimizer] = weakref.WeakSet()
        parameters = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for space in list(_spaces):
            if any(id(target) in parameters for target in space.targets.values()):
                _trained[optimizer].add(space)
            _warn_of_weights(optimizer, parameters, space)
    for space in list(_trained[optimizer]):
        space.check_step(optimizer)


def _warn_of_weights(optimizer: Optimizer, parameters: Collection[int], space: _Space) -> None:
    names = list(dict.fromkeys(name for name, p in space.solved_now() if id(p) in parameters))
    if names:
        warnings.warn(
            f"{type(optimizer).__name__} steps the weights of {', '.join(names[:5])}, which are solved from targets, "
            f"without effect. Give it space.parameters(), or call space.substitute(optimizer) before its first step; "
            f"to go on in weight space, call space.release().",
            stacklevel=5,
        )
