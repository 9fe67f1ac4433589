"""How a module is called with the reference batch, where its ``reference_forward`` is not overridden.

Where the signature of ``forward`` says it, by the signature. Otherwise the module's own ``training_step`` is watched
once, without a trace (``engine/untraced.py``): if it calls ``forward`` with items of the batch and constants, the call
is repeated with the same items of any batch; if not, ``training_step`` itself is the reference forward. A label is
never passed as an input unless ``training_step`` does so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn

from ts_lightning.engine.copies import fresh
from ts_lightning.engine.mode import ReferenceMode
from ts_lightning.engine.untraced import Untraced
from ts_lightning.errors import TargetSpaceError, first_line
from ts_lightning.layers.registry import family
from ts_lightning.lightning.module import TargetSpaceModule
from ts_lightning.lightning.reference_data import form_of

Call = Callable[[Any], Any]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CONSTANTS = (bool, float, str, type(None), torch.dtype, torch.device)


class _Unknown(Exception):
    """An argument that is neither an item of the batch nor a constant."""


def reference_call(module: TargetSpaceModule, batch: Any) -> Call:
    """What runs the module on batches like ``batch``.

    Raises:
        TargetSpaceError: neither ``forward`` nor ``training_step`` can be run on it.
    """
    call, failure = by_signature(module, batch), ""
    reached: set[nn.Module] = set()
    if call is not None:
        try:
            reached = _tried(module, fresh(batch), call)
        except TargetSpaceError:
            raise
        except Exception as error:  # whatever a user's forward raises
            call, failure = None, f"{type(error).__name__}: {first_line(error)}"
    if call is not None and _layers(module) <= reached:
        return call
    watched = _watched(module, batch)
    if isinstance(watched, str):
        call = call or (by_position(module, batch) if not failure else None)
        if call is not None:
            return call
        if failure:
            found = f"While calling forward on the reference batch, a {form_of(batch)}: {failure}."
        else:
            found = needs(module, batch)
        raise TargetSpaceError(f"{found} {watched} Override reference_forward(batch) to call the model with it.")
    step, reached_by_step = watched
    return call if call is not None and reached_by_step <= reached else step


def by_signature(module: TargetSpaceModule, batch: Any) -> Call | None:
    """The call that the signature of ``forward`` asks for, if it leaves no doubt about what the inputs are."""
    if not _has_forward(module):
        return None
    parameters = [p for p in inspect.signature(module.forward).parameters.values() if p.kind in _POSITIONAL]
    needed = _needed(module)
    if isinstance(batch, Tensor):
        return module if len(needed) <= 1 else None
    if isinstance(batch, Mapping):
        optional = [p.name for p in parameters if p.name not in needed and p.name in batch]
        if needed and not optional and all(name in batch for name in needed):
            return lambda batch: module(**{name: batch[name] for name in needed})
        return None
    if isinstance(batch, tuple) and needed and set(needed) <= set(getattr(batch, "_fields", ())):
        return lambda batch: module(**{name: getattr(batch, name) for name in needed})
    if not isinstance(batch, (tuple, list)) or not batch or len(needed) > 1 or needed == ["batch"]:
        return None
    first = batch[0]
    # whole numbers, one for each sample, are labels as often as inputs
    if isinstance(first, Tensor) and (first.is_floating_point() or first.dim() > 1 or len(batch) == 1):
        return lambda batch: module(batch[0])
    return None


def by_position(module: TargetSpaceModule, batch: Any) -> Call | None:
    """The call with the first items of a batch, if something remains for a label and none of them looks like one."""
    count = len(_needed(module))
    if not isinstance(batch, (tuple, list)) or not 0 < count < len(batch):
        return None
    if any(isinstance(item, Tensor) and item.dim() < 2 and not item.is_floating_point() for item in batch[:count]):
        return None
    return lambda batch: module(*batch[:count])


def needs(module: LightningModule, batch: Any) -> str:
    """What is missing between a batch and ``forward``, in words."""
    if not _has_forward(module):
        return f"{type(module).__name__} has no forward(), through which the reference batch could be run."
    return f"The reference batch is a {form_of(batch)}, and forward() needs ({', '.join(_needed(module))})."


def _has_forward(module: LightningModule) -> bool:
    """Whether a module has a forward of its own, which some set to None."""
    return callable(module.forward) and type(module).forward is not LightningModule.forward


@contextmanager
def quiet(module: LightningModule) -> Iterator[None]:
    """Let nothing be logged or printed by the module."""
    covered = ("log", "log_dict", "print")
    kept = {name: module.__dict__[name] for name in covered if name in module.__dict__}
    trainer = module._trainer
    loggers = [] if trainer is None else trainer.loggers
    try:
        module.__dict__.update(dict.fromkeys(covered, _nothing))
        if trainer is not None and loggers:
            trainer.loggers = [DummyLogger() for _ in loggers]
        yield
    finally:
        for name in covered:
            del module.__dict__[name]
        module.__dict__.update(kept)
        if trainer is not None and loggers:
            trainer.loggers = loggers


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what writes to loggers."""


def _tried(module: TargetSpaceModule, batch: Any, call: Call) -> set[nn.Module]:
    """Run a call without a trace; returns the supported layers that it reached with gradients on."""
    reached: set[nn.Module] = set()

    def look(layer: nn.Module, args: Any) -> None:
        if torch.is_grad_enabled():
            reached.add(layer)

    with (
        quiet(module),
        torch.inference_mode(False),
        torch.enable_grad(),  # a forward may differentiate
        Untraced(module)() as undo,
        ReferenceMode(module, None)(undo.modules),
    ):
        looks = [layer.register_forward_pre_hook(look) for layer in _layers(module)]
        try:
            call(batch)
        finally:
            for handle in looks:
                handle.remove()
    return reached


def _watched(module: TargetSpaceModule, batch: Any) -> str | tuple[Call, set[nn.Module]]:
    """Run ``training_step`` once; returns how to call the module and what it reached, or why it says nothing."""
    if type(module).training_step is LightningModule.training_step:
        return "Nor is there a training_step() to run in its place."
    if not module.automatic_optimization:
        return "Nor can training_step() be run in its place, since it makes optimizer steps of its own."
    names = list(inspect.signature(module.training_step).parameters)
    if "dataloader_iter" in names:
        return "Nor can training_step() be run in its place, since it takes batches from an iterator."

    def step(batch: Any) -> Any:
        return module.training_step(*(batch, 0, 0)[: len(names)])

    given = fresh(batch)
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    forward = module.forward

    def recorded(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return forward(*args, **kwargs)

    def watched(batch: Any) -> Any:
        module.__dict__["forward"] = recorded
        try:
            return step(batch)
        finally:
            module.__dict__.pop("forward")
            if "forward" in before:
                module.__dict__["forward"] = before["forward"]

    before = {name: module.__dict__[name] for name in ("forward",) if name in module.__dict__}
    try:
        reached = _tried(module, given, watched)
    except TargetSpaceError:
        raise
    except Exception as error:  # whatever a user's training_step raises
        return f"Nor can training_step() be run in its place ({type(error).__name__}: {first_line(error)})."
    if not seen:
        return step, reached
    args, kwargs = seen[0]
    try:
        places = [_place(value, given) for value in args], {key: _place(value, given) for key, value in kwargs.items()}
    except _Unknown:
        return step, reached

    def call(batch: Any) -> Any:
        return module(*(at(batch) for at in places[0]), **{key: at(batch) for key, at in places[1].items()})

    return (call, reached) if _tried(module, fresh(batch), call) >= reached else (step, reached)


def _place(value: Any, batch: Any) -> Call:
    """Where in a batch an argument stands, as a function of the batch; or the constant that it is.

    Raises:
        _Unknown: it is neither.
    """
    path = _path(value, batch)
    if path is not None:
        return lambda batch: _at(batch, path)
    if isinstance(value, _CONSTANTS):
        return lambda batch: value
    if isinstance(value, Mapping):
        entries = {key: _place(item, batch) for key, item in value.items()}
        return lambda batch: {key: at(batch) for key, at in entries.items()}
    if type(value) in (list, tuple):
        items = [_place(item, batch) for item in value]
        return lambda batch: type(value)(at(batch) for at in items)
    raise _Unknown


def _path(value: Any, batch: Any) -> tuple[Any, ...] | None:
    """The keys and indices that lead from a batch to this very object."""
    if value is batch:
        return ()
    pairs = (
        batch.items() if isinstance(batch, Mapping) else enumerate(batch) if isinstance(batch, (list, tuple)) else ()
    )
    for key, item in pairs:
        inner = _path(value, item) if not isinstance(value, _CONSTANTS) else None
        if inner is not None:
            return (key, *inner)
    return None


def _at(batch: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        batch = batch[key]
    return batch


def _layers(module: nn.Module) -> set[nn.Module]:
    """The layers that can be solved and are called as modules."""
    inside = {m.out_proj for m in module.modules() if isinstance(m, nn.MultiheadAttention)}
    return {
        m
        for m in module.modules()
        if m not in inside and family(m) is not None and any(p.requires_grad for p in m.parameters(recurse=False))
    }


def _needed(module: LightningModule) -> list[str]:
    """The parameters that ``forward`` cannot be called without."""
    if not _has_forward(module):
        return []
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind in _POSITIONAL and p.default is inspect.Parameter.empty]
