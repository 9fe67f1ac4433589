"""A training step of manual optimisation, run for the calls that it makes: its optimizers and schedules stand still.

Optimizers are the real ones, whose groups may be read. Whatever of them is called a step does nothing, but runs a
closure that it is given. Backward passes by way of the module, and what belongs to them, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule

_OF_MODULES = ("manual_backward", "toggle_optimizer", "untoggle_optimizer", "clip_gradients")


@contextmanager
def held_steps(module: LightningModule) -> Iterator[None]:
    """Let no optimizer and no schedule of a module's fit move for a while."""
    with ExitStack() as stack:
        stack.enter_context(_set(module, dict.fromkeys(_OF_MODULES, _nothing)))
        strategy = getattr(module._trainer, "strategy", None)
        if strategy is not None:
            for optimizer in (*strategy.optimizers, *strategy._lightning_optimizers):
                stack.enter_context(_set(optimizer, dict.fromkeys(_steps(optimizer), _closed) | _BESIDE))
            for config in strategy.lr_scheduler_configs:
                stack.enter_context(_set(config.scheduler, {"step": _nothing}))
        yield


@contextmanager
def _set(holder: Any, stand_ins: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Let these stand for methods of an object."""
    own = vars(holder)
    kept = {name: own[name] for name in stand_ins if name in own}
    try:
        own.update(stand_ins)
        yield
    finally:
        for name in stand_ins:
            own.pop(name, None)
        own.update(kept)


def _steps(optimizer: Any) -> list[str]:
    """The methods of an optimizer that are called a step, as the two of a sharpness-aware one."""
    return [name for name in dir(type(optimizer)) if "step" in name and not name.startswith(("_", "register"))]


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what would change something."""


def _closed(*args: Any, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
    """Stands for a step, which runs its closure with gradients on."""
    closure = next((arg for arg in args if callable(arg)), closure)
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _open(*args: Any, **kwargs: Any) -> AbstractContextManager[None]:
    return nullcontext()


_BESIDE: dict[str, Callable[..., Any]] = {"zero_grad": _nothing, "toggle_model": _open}
