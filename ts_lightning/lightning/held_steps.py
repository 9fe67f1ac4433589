"""A training step of manual optimisation, run for the calls that it makes: its optimizers and schedules stand still.

Optimizers are the real ones, whose groups may be read. Whatever of them is called a step does nothing, but runs a
closure that it is given. Backward passes by way of the module are left out, unless the step reads gradients behind
them, and so is what belongs to them. What the step sets itself, as a rate in a group, is put back. So it is with
optimizers, schedules and gradient scalers that the module or an object of the user's keeps, beside those of the fit.
Those that others hold stand still, too (``held.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ts_lightning.engine.reference.derivatives import without_gradients
from ts_lightning.engine.running.libraries import of_user
from ts_lightning.engine.steps.held import all_still, is_step, recorded, scaled
from ts_lightning.engine.steps.optimizers import inner_optimizers
from ts_lightning.engine.targets.target import Target

#: stands for ``manual_backward``
Backward = Callable[..., None]

_OF_MODULES = ("manual_backward", "toggle_optimizer", "untoggle_optimizer", "clip_gradients")
_OF_EVERY_MODULE = vars(nn.Module()).keys()  # parameters, layers and hooks, which hold none
_FEW, _DEEP = 64, 4  # entries of containers that are looked into, and containers or objects within each other


def no_backward(module: LightningModule) -> Backward:
    """Makes no backward passes, so that gradients are as they were."""
    return _nothing


def own_backward(module: LightningModule) -> Backward:
    """Makes the backward passes that a step asks for; in a reference pass NaNs stand for their gradients."""
    return lambda loss, *args, **kwargs: loss.backward(*args, **kwargs)


def ones_backward(module: LightningModule) -> Backward:
    """Gives gradients of ones, for a step whose layers do not depend on any."""
    parameters = set(module.parameters()).union(_trained(_moving(module)))

    def backward(*args: Any, **kwargs: Any) -> None:
        for parameter in parameters:
            if parameter.requires_grad:
                before = parameter.grad
                ones = torch.ones(parameter.shape, dtype=parameter.dtype, device=parameter.device)
                parameter.grad = ones if before is None else before + ones

    return backward


@contextmanager
def held_steps(
    module: LightningModule, backward: Callable[[LightningModule], Backward] = no_backward
) -> Iterator[None]:
    """Let no optimizer and no schedule of a module's fit move for a while.

    Args:
        module: the module.
        backward: what its ``manual_backward`` does.
    """
    moving = _moving(module)
    with ExitStack() as stack:
        beside = {"manual_backward": backward(module)}
        stack.enter_context(_set(module, dict.fromkeys(_OF_MODULES, _nothing) | beside))
        stack.enter_context(_unheard(moving))
        stack.enter_context(without_gradients(set(_trained(moving)).difference(module.parameters())))
        for one in moving:
            stack.enter_context(_still(one))
        stack.enter_context(all_still())  # last, since methods of changed classes are looked up slowly
        yield


@contextmanager
def _unheard(moving: Sequence[Any]) -> Iterator[None]:
    """Let gradients of targets in optimizers be read and cleared without anything being pulled back."""
    targets = {parameter for parameter in _trained(moving) if isinstance(parameter, Target)}
    kept = [(target, target.before_reading, target.weights) for target in targets]
    try:
        for target in targets:
            target.before_reading, target.weights = None, ()
        yield
    finally:
        for target, before_reading, weights in kept:
            target.before_reading, target.weights = before_reading, weights


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


@contextmanager
def _still(one: Any) -> Iterator[None]:
    """Hold an optimizer, a schedule or a gradient scaler, and put back what is set of it."""
    stand_ins: dict[str, Callable[..., Any]] = {"step": _nothing}
    if isinstance(one, Optimizer):
        stand_ins = dict.fromkeys(_steps(one), _closed) | _BESIDE
    elif isinstance(one, GradScaler):
        stand_ins = {"step": scaled, "unscale_": _nothing, "update": _nothing}
    put_back = recorded(one)
    try:
        vars(one).update(stand_ins)
        yield
    finally:
        put_back()


def _trained(moving: Sequence[Any]) -> Iterator[nn.Parameter]:
    """What optimizers among these train."""
    for one in moving:
        for group in getattr(one, "param_groups", ()):
            yield from group["params"]


def _moving(module: LightningModule) -> list[Any]:
    """The optimizers, schedules and gradient scalers of a module's fit, and those that it holds."""
    found: list[Any] = []
    strategy = getattr(module._trainer, "strategy", None)
    if strategy is not None:
        found += [*strategy.optimizers, *strategy._lightning_optimizers]
        found += [config.scheduler for config in strategy.lr_scheduler_configs]
        found += _held(getattr(strategy.precision_plugin, "scaler", None))
    for part in module.modules():
        for name, value in vars(part).items():
            if name not in _OF_EVERY_MODULE:
                found += _held(value)
    found += [inner for one in found if isinstance(one, Optimizer) for inner in inner_optimizers(one)]
    return list({id(one): one for one in found}.values())


def _held(value: Any, deep: int = _DEEP) -> Iterator[Any]:
    """The optimizers, schedules and gradient scalers in containers and in objects of the user's."""
    if isinstance(value, (Optimizer, LRScheduler, GradScaler)):
        yield value
    elif isinstance(value, (list, tuple, Mapping)):
        if deep and len(value) <= _FEW:
            for item in value.values() if isinstance(value, Mapping) else value:
                yield from _held(item, deep - 1)
    elif (
        deep
        and hasattr(value, "__dict__")
        and not isinstance(value, (nn.Module, type))
        and of_user(type(value).__module__)
    ):
        yield from _held(vars(value), deep - 1)


def _steps(optimizer: Optimizer) -> list[str]:
    """The methods of an optimizer that are called a step, as the two of a sharpness-aware one."""
    names = filter(is_step, dir(type(optimizer)))
    return [name for name in names if callable(getattr(type(optimizer), name))]


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
