"""How a module is called with the reference batch, where its ``reference_forward`` is not overridden.

So that layers receive what the module's own ``training_step`` gives them, which is watched once, without a trace
(``trial.py``), and with optimizers that stand still (``held_steps.py``). The first of these that does so is taken: the
call that the signature of ``forward`` asks for; the call of ``forward`` that was watched, with the same items of any
batch and constants; ``training_step`` itself. A label is never passed as an input unless ``training_step`` does so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from ts_lightning.amount import amount
from ts_lightning.engine.names import listed
from ts_lightning.engine.reference.mode import forwards
from ts_lightning.engine.running.batches import batch_size, part
from ts_lightning.engine.running.copies import fresh
from ts_lightning.engine.running.learned import Learned
from ts_lightning.engine.running.written import known_written
from ts_lightning.errors import TargetSpaceError, first_line
from ts_lightning.lightning.held_steps import Backward, held_steps, no_backward, ones_backward, own_backward
from ts_lightning.lightning.module import TargetSpaceModule
from ts_lightning.lightning.reference_data import form_of
from ts_lightning.lightning.training_data import training_batch_size
from ts_lightning.lightning.trial import Inputs, agree, on_parts, reaches_all, tried, untouched

Call = Callable[[Any], Any]
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CONSTANTS = (bool, float, str, type(None), torch.dtype, torch.device)


class _Unknown(Exception):
    """An argument that is neither an item of the batch nor a constant."""


def reference_call(module: TargetSpaceModule, batch: Any, *, changes: bool = False) -> Call:
    """What runs the module on batches like ``batch``, so that layers receive what ``training_step`` gives them.

    Where it may call other layers later (``changes``), nothing else stands for it.

    Raises:
        TargetSpaceError: neither ``forward`` nor ``training_step`` can be run on it.
    """
    call, failure = by_signature(module, batch), ""
    if call is not None:
        try:
            given = tried(module, fresh(batch), call)
        except TargetSpaceError:
            raise
        except Exception as error:  # whatever a user's forward raises
            call, failure = None, f"{type(error).__name__}: {first_line(error)}"
    # a step that was set on the instance, as by what counts its runs, or that is more than one pass over the layers
    own_steps = "training_step" in vars(module) or not module.automatic_optimization
    if call is not None and not changes and own_steps and reaches_all(module, given):
        return call
    forget = known_written(module.modules())
    watched = _watched(module, batch)
    if isinstance(watched, str):
        call = call or (by_position(module, batch) if not failure else None)
        if call is not None:
            return call
        if failure:
            found = f"While calling forward on the reference batch, a {form_of(batch)}: {failure}."
        else:
            found = needs(module, batch)
        raise TargetSpaceError(
            f"{found} {watched} Override reference_forward(batch) to call the model with it.{_hint(module, batch)}"
        )
    step, recorded, given_by_step = watched
    if changes:
        return step
    if call is not None and (agree(given, given_by_step) or _draws(module, batch, step, given_by_step)):
        forget()  # what training_step alone writes to
        return call
    with suppress(Exception):  # where training_step writes to the batch what it calls forward with
        if recorded is not None and agree(tried(module, fresh(batch), recorded), given_by_step):
            return recorded
    _say_parts(module, given_by_step, batch_size(batch))
    return step


def _say_parts(module: TargetSpaceModule, given: Inputs, samples: int | None) -> None:
    """Name the layers that ``training_step`` gives the batch in parts, of which layers are solved from the first."""
    layers = on_parts(given, samples or 0)
    if layers:
        names = {layer: name for name, layer in module.named_modules()}
        rank_zero_warn(
            f"training_step calls {listed([names[layer] for layer in layers])} on parts of its batch, the first of "
            f"{given[layers[0]].count} of {samples} reference samples. Layers are solved from the rows of their first "
            f"call. Override reference_forward(batch) to call the module on the whole batch at once."
        )


def _draws(module: TargetSpaceModule, batch: Any, step: Call, given: Inputs) -> bool:
    """Whether the layers' inputs are drawn at random where each process has a share of them; said then."""
    trainer, config = module._trainer, module.target_space
    if trainer is None or trainer.world_size == 1 or config is None or not config.reference.shard:
        return False
    if agree(tried(module, fresh(batch), step, more=1), given):
        return False
    rank_zero_warn(
        f"training_step gives forward inputs that are drawn at random, and each of {trainer.world_size} processes has "
        f"a share of the reference batch. Layers are solved for forward's inputs without them. Use "
        f"ReferenceConfig(shard=False) to solve for those of training_step."
    )
    return True


def _hint(module: TargetSpaceModule, batch: Any) -> str:
    """The size of the loader's batches, where the module can be run on that many samples."""
    size, found = training_batch_size(module._trainer), batch_size(batch)
    if size is None or found is None or not size < found:
        return ""
    try:
        reference_call(module, part(batch, 0, size))
    except Exception:  # whatever a user's forward raises, or a batch that has no part
        return ""
    return (
        f" It can be run on {amount(size, 'sample')}, as many as the loader's batches have: set "
        f"ReferenceConfig(size={size})."
    )


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


def _watched(module: TargetSpaceModule, batch: Any) -> str | tuple[Call, Call | None, Inputs]:
    """Run ``training_step`` once.

    Returns:
        ``training_step`` as a call; its first call of ``forward``, if that has items of the batch and constants; and
        what it gave to layers. Or why it cannot be run.
    """
    if type(module).training_step is LightningModule.training_step:
        return "Nor is there a training_step() to run in its place."
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        return "Nor can training_step() be run in its place, since it takes batches from an iterator."
    index = (0,) if is_param_in_hook_signature(module.training_step, "batch_idx", min_args=2) else ()

    learned, given = Learned(), fresh(batch)
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    forward = module.forward

    def recorded(*args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return forward(*args, **kwargs)

    def by(backward: Callable[..., Backward]) -> tuple[Call, Inputs]:
        def step(batch: Any) -> Any:
            with untouched(module, learned), held_steps(module, backward):
                return module.training_step(batch, *index)

        def watched(batch: Any) -> Any:
            with forwards({module: recorded}):
                return step(batch)

        seen.clear()
        return step, tried(module, given, watched)

    try:
        step, inputs = _first_run(by, reads=not module.automatic_optimization)
    except TargetSpaceError:
        raise
    except Exception as error:  # whatever a user's training_step raises
        return f"Nor can training_step() be run in its place ({type(error).__name__}: {first_line(error)})."
    if not seen:
        return step, None, inputs
    args, kwargs = seen[0]
    try:
        places = [_place(value, given) for value in args], {key: _place(value, given) for key, value in kwargs.items()}
    except _Unknown:
        return step, None, inputs

    def call(batch: Any) -> Any:
        return module(*(at(batch) for at in places[0]), **{key: at(batch) for key, at in places[1].items()})

    return step, call, inputs


def _first_run(by: Callable[[Callable[..., Backward]], tuple[Call, Inputs]], *, reads: bool) -> tuple[Call, Inputs]:
    """A training step as a call, by the cheapest backward passes with which it can be run, and what it gave to layers.

    Args:
        by: runs it with what makes its backward passes.
        reads: whether it may read gradients behind them.
    """
    try:
        return by(no_backward)
    except TargetSpaceError:
        raise
    except Exception:  # whatever a user's training_step raises, as of None where it reads a gradient
        if not reads:
            raise
    with suppress(Exception):  # where it reads others than those of parameters
        step, given = by(ones_backward)
        _, expected = by(own_backward)
        if agree(given, expected) and agree(expected, given):
            return step, given
    return by(own_backward)


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


def _needed(module: LightningModule) -> list[str]:
    """The parameters that ``forward`` cannot be called without."""
    if not _has_forward(module):
        return []
    parameters = inspect.signature(module.forward).parameters.values()
    return [p.name for p in parameters if p.kind in _POSITIONAL and p.default is inspect.Parameter.empty]
