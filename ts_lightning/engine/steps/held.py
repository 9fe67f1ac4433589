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
from weakref import WeakKeyDictionary

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
    block = _Block()
    with _STAND_INS.needed():
        _HERE.blocks.append(block)
        try:
            yield
        finally:
            _HERE.blocks.remove(block)
            block.put_back()


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


class _Block:
    """What stands still in one block.

    A step of an optimizer is made without gradients, which leave parameters and states as they are, and what it writes
    all the same is put back behind the block.
    """

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}
        self._held: dict[int, tuple[Callable[[], None], list[tuple[nn.Parameter, Tensor]]]] = {}
        self._steps: list[tuple[Optimizer, list[tuple[nn.Parameter, Tensor | None]]]] = []  # with their gradients

    def put_back(self) -> None:
        """Put back what steps have written."""
        while self._steps:
            self._give_back()
        for put_back, values in self._held.values():
            put_back()
            with torch.no_grad():
                for parameter, value in values:
                    if not torch.equal(parameter, value):
                        parameter.copy_(value)

    def before(self, optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Take the gradients away ahead of a step, also those that its closure gives."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if id(optimizer) not in self._held:
            values = [(p, p.detach().clone()) for p in parameters]
            self._held[id(optimizer)] = recorded(optimizer), values
        self._steps.append((optimizer, [(p, p.grad) for p in parameters]))

        def without(*given: Any) -> Any:
            for parameter in parameters:
                parameter.grad = None
            return given[0] if given else None

        def cleared(closure: Any) -> Any:
            return (lambda: without(closure())) if callable(closure) else closure

        without()
        given = {**kwargs, "closure": cleared(kwargs["closure"])} if "closure" in kwargs else kwargs
        return (args[0], *map(cleared, args[1:])), given

    def behind(self, optimizer: Optimizer) -> None:
        """Give the gradients back behind it, and those of steps within it that failed."""
        while self._steps and self._give_back() is not optimizer:
            pass

    def _give_back(self) -> Optimizer:
        optimizer, gradients = self._steps.pop()
        for parameter, gradient in gradients:
            parameter.grad = gradient
        return optimizer


class _Here(threading.local):
    """The blocks of the present thread, from the outermost."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []

    def holding(self, one: Any) -> _Block | None:
        """The innermost block in which an object stands still."""
        return next((block for block in reversed(self.blocks) if id(one) not in block.made), None)


class _StandIns:
    """What stands for the methods of classes for as long as any thread is in a block, and asks whether this one is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._own: dict[tuple[type[Any], str], tuple[Any, Any]] = {}  # methods, and what stands for them
        self._names: WeakKeyDictionary[type[Any], tuple[int, list[str]]] = WeakKeyDictionary()
        self._hooks = ExitStack()

    @contextmanager
    def needed(self) -> Iterator[None]:
        """A block: the first one puts them in place, the last one takes them away."""
        with self._lock:
            self._blocks += 1
        try:
            with self._lock:
                self._put()
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._take_away()

    def _put(self) -> None:
        """Put them in place, also in classes that have come since the first block began."""
        if not self._own:
            self._hooks.enter_context(register_optimizer_step_pre_hook(_before))
            self._hooks.enter_context(register_optimizer_step_post_hook(_behind))
        for base in _KINDS:
            for name in _MADE_BY:
                self._replace(base, name, _making)
            for kind in _classes(base):
                for name in self._steps_of(kind, base):
                    self._replace(kind, name, _standing)

    def _steps_of(self, kind: type[Any], base: type[Any]) -> list[str]:
        """The names of a class's own steps, which are looked for once, since blocks begin at every solve."""
        count, names = self._names.get(kind, (0, []))
        if count != len(vars(kind)):
            names = [name for name in vars(kind) if _steps(base, name)]
            self._names[kind] = len(vars(kind)), names
        return names

    def _replace(
        self, kind: type[Any], name: str, stand_in: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        own = vars(kind).get(name)
        if isinstance(own, FunctionType) and (kind, name) not in self._own:
            self._own[kind, name] = own, stand_in(own)
            setattr(kind, name, self._own[kind, name][1])

    def _take_away(self) -> None:
        self._hooks.close()
        for (kind, name), (own, stand_in) in self._own.items():
            if vars(kind).get(name) is stand_in:  # else others have put something in its place
                setattr(kind, name, own)
        self._own.clear()


_HERE, _STAND_INS = _Here(), _StandIns()


def _before(optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    block = _HERE.holding(optimizer)
    return None if block is None else block.before(optimizer, args, kwargs)


def _behind(optimizer: Optimizer, args: Any, kwargs: dict[str, Any]) -> None:
    block = _HERE.holding(optimizer)
    if block is not None:
        block.behind(optimizer)


def _making(own: Callable[..., Any]) -> Callable[..., Any]:
    """What stands for a method that makes an object, which moves from then on."""

    @wraps(own)
    def made(one: Any, *args: Any, **kwargs: Any) -> Any:
        for block in _HERE.blocks:
            block.made[id(one)] = one
        return own(one, *args, **kwargs)

    return made


def _standing(own: Callable[..., Any]) -> Callable[..., Any]:
    """What stands for a step, of which a gradient scaler's is one of the optimizer that it is given."""

    @wraps(own)
    def step(one: Any, *args: Any, **kwargs: Any) -> Any:
        if _HERE.holding(one) is None:
            return own(one, *args, **kwargs)
        return scaled(*args, **kwargs) if isinstance(one, GradScaler) and own.__name__ == "step" else None

    return step


def _steps(base: type[Any], name: str) -> bool:
    """Whether a method of these classes is a step, beside that of optimizers, which has hooks."""
    if base is Optimizer:
        return is_step(name) and name != "step"
    return name in (("step", "unscale_", "update") if base is GradScaler else ("step",))


def _classes(base: type[Any]) -> list[type[Any]]:
    """A class and all that are made of it."""
    found = [base]
    for kind in found:
        found += kind.__subclasses__()
    return found
