"""A warning where an optimizer steps weights that are solved from targets, which would undo or ignore its steps."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook


class _Space(Protocol):
    def solved_now(self) -> Sequence[tuple[str, nn.Parameter]]:
        """The solved weights with the names of their modules; none once the space is released."""


_spaces: weakref.WeakSet[Any] = weakref.WeakSet()
_seen: weakref.WeakSet[Optimizer] = weakref.WeakSet()
_handle: Any = None


def watch(space: _Space) -> None:
    """Warn of optimizers that step the space's solved weights, for as long as the space lives and holds a solution."""
    global _handle
    _spaces.add(space)
    _seen.clear()
    if _handle is None:
        _handle = register_optimizer_step_pre_hook(_look)


def _look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if optimizer in _seen:
        return
    _seen.add(optimizer)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for space in list(_spaces):
        names = list(dict.fromkeys(name for name, p in space.solved_now() if id(p) in trained))
        if names:
            warnings.warn(
                f"{type(optimizer).__name__} steps the weights of {', '.join(names[:5])}, which are solved from "
                f"targets, without effect. Give it space.parameters(), or call space.substitute(optimizer) before its "
                f"first step; to go on in weight space, call space.release().",
                stacklevel=4,
            )
