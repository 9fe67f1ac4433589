"""Optimizers, schedules and gradient scalers that stand still for a while, whoever holds them.

A global variable, a closure, an object of a library: what the present thread calls a step of changes nothing. What is
made meanwhile moves, as the inner optimizer of fast weights, and so does what other threads hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

_KINDS: tuple[type[Any], ...] = (Optimizer, LRScheduler, GradScaler)
_MADE_BY = ("__init__", "__setstate__")  # the latter of a copy


@contextmanager
def all_still() -> Iterator[None]:
    """Let no optimizer, schedule or gradient scaler move that the block has not made."""
    with ExitStack() as stack:
        still = stack.enter_context(_Still())
        stack.enter_context(register_optimizer_step_pre_hook(still.before))
        stack.enter_context(register_optimizer_step_post_hook(still.behind))
        for kind in _KINDS:
            for name in _MADE_BY:
                if name in vars(kind):
                    stack.enter_context(_patched(kind, name, still.making))
        for base in _KINDS:
            for kind in (base, *_subclasses(base)):
                for name in [
                    n for n, value in vars(kind).items() if isinstance(value, FunctionType) and _steps(base, n)
                ]:
                    stack.enter_context(_patched(kind, name, still.standing))
        yield


def is_step(name: str) -> bool:
    """Whether a method of an optimizer is called a step, as the two of a sharpness-aware one."""
    return "step" in name and not name.startswith(("_", "register"))


def scaled(optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
    """Stands for a gradient scaler's step of an optimizer."""
    return optimizer.step(*args, **kwargs)


def recorded(one: Any) -> Callable[[], None]:
    """What puts an optimizer, a schedule or a gradient scaler back to what it is now, but for tensors in its state."""
    held, groups = [vars(one)], list(getattr(one, "param_groups", ()))
    if isinstance(one, Optimizer):
        held += [*groups, one.state, *(state for state in one.state.values() if isinstance(state, dict))]
    kept = [dict(entries) for entries in held]

    def put_back() -> None:
        for entries, before in zip(held, kept, strict=True):
            entries.clear()
            entries.update(before)
        if groups:
            one.param_groups[:] = groups

    return put_back


class _Still:
    """What stands still in one block, for its thread.

    A step of an optimizer is made without gradients, which leave parameters and states as they are, and what it writes
    all the same is put back behind the block.
    """

    def __init__(self) -> None:
        self._thread: int | None = None
        self._made: dict[int, Any] = {}
        self._held: dict[int, tuple[Callable[[], None], list[tuple[nn.Parameter, Tensor]]]] = {}
        self._gradients: list[tuple[nn.Parameter, Tensor | None]] = []

    def __enter__(self) -> _Still:
        self._thread = threading.get_ident()
        return self

    def __exit__(self, *args: object) -> None:
        self._thread = None
        self._give_back()
        for put_back, values in self._held.values():
            put_back()
            with torch.no_grad():
                for parameter, value in values:
                    if not torch.equal(parameter, value):
                        parameter.copy_(value)

    def moves(self, one: Any) -> bool:
        """Whether an object is none that stands still."""
        return threading.get_ident() != self._thread or id(one) in self._made

    def before(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Take the gradients away ahead of a step, also those that its closure gives."""
        if self.moves(optimizer):
            return None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if id(optimizer) not in self._held:
            values = [(p, p.detach().clone()) for p in parameters]
            self._held[id(optimizer)] = recorded(optimizer), values
        self._gradients += [(p, p.grad) for p in parameters]

        def without(*given: Any) -> Any:
            for parameter in parameters:
                parameter.grad = None
            return given[0] if given else None

        def cleared(closure: Any) -> Any:
            return (lambda: without(closure())) if callable(closure) else closure

        without()
        given = {**kwargs, "closure": cleared(kwargs["closure"])} if "closure" in kwargs else kwargs
        return (args[0], *map(cleared, args[1:])), given

    def behind(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
        """Give the gradients back behind it."""
        if not self.moves(optimizer):
            self._give_back()

    def making(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """What stands for a method that makes an object, which moves from then on."""

        @wraps(own)
        def made(one: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self._thread:
                self._made[id(one)] = one
            return own(one, *args, **kwargs)

        return made

    def standing(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """What stands for a step, of which a gradient scaler's is one of the optimizer that it is given."""

        @wraps(own)
        def step(one: Any, *args: Any, **kwargs: Any) -> Any:
            if self.moves(one):
                return own(one, *args, **kwargs)
            return scaled(*args, **kwargs) if isinstance(one, GradScaler) and own.__name__ == "step" else None

        return step

    def _give_back(self) -> None:
        given, self._gradients = self._gradients, []
        for parameter, gradient in reversed(given):  # the first is that of before
            parameter.grad = gradient


@contextmanager
def _patched(
    kind: type[Any], name: str, stand_in: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Let something stand for a class's own method."""
    own = vars(kind)[name]
    setattr(kind, name, stand_in(own))
    try:
        yield
    finally:
        setattr(kind, name, own)


def _steps(base: type[Any], name: str) -> bool:
    """Whether a method of these classes is a step, beside that of optimizers, which has hooks."""
    if base is Optimizer:
        return is_step(name) and name != "step"
    return name in (("step", "unscale_", "update") if base is GradScaler else ("step",))


def _subclasses(kind: type[Any]) -> set[type[Any]]:
    """All classes that are made of one."""
    return {found for direct in kind.__subclasses__() for found in (direct, *_subclasses(direct))}
