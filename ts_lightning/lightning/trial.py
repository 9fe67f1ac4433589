"""Running a module once without a trace, to see what it gives to the layers that can be solved.

Two ways to run a module agree if they give the same inputs to these layers. Inputs are compared at the first call of
each layer with gradients on, by some thousands of their entries. If these differ, as where one way calls the module on
parts of a batch, the rows of all calls together are compared, in any order: by their number, and by the sums of what
one fixed linear form makes of each row, and of its squares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ts_lightning.engine.reference.derivatives import without_gradients
from ts_lightning.engine.reference.mode import ReferenceMode
from ts_lightning.engine.running.batches import tensors_in
from ts_lightning.engine.running.learned import Learned
from ts_lightning.engine.running.libraries import of_user
from ts_lightning.engine.running.undo import Undo
from ts_lightning.engine.running.untraced import Untraced
from ts_lightning.engine.running.written import version_of
from ts_lightning.layers.registry import family
from ts_lightning.lightning.module import TargetSpaceModule

_ENTRIES = 2**14  # of a layer's input that are compared
_ROUNDING = 1e-3  # of their norm, up to which inputs are the same
_SUMS = 1e-5  # the same, of sums over rows


@dataclass
class Given:
    """What a run gave to a layer.

    Attributes:
        first: some entries of the first call's input; None where these cannot be compared.
        count: the rows of the first call; 0 where these cannot be compared.
        rows: (3,), the number of rows of all calls, and their sums; None where these cannot be compared.
        shape: of a row.
    """

    first: Tensor | None
    count: int
    rows: Tensor | None
    shape: torch.Size | None


#: of every layer that a run reached
Inputs = dict[nn.Module, Given]


def tried(module: TargetSpaceModule, batch: Any, call: Callable[[Any], Any], more: int = 0) -> Inputs:
    """Run a call without a trace; returns what it gave to the supported layers that it reached with gradients on.

    Random numbers start at the user's seed and ``more``, so that what is read ahead of training follows it.
    """
    given: Inputs = {}
    layers = _layers(module)

    def look(layer: nn.Module, args: Any, options: Any) -> None:
        if torch.is_grad_enabled() and layer in layers:  # a copy that the call makes of one has the hook, too
            tensor = _values(next(tensors_in((args, options)), None))
            rows, shape = (None, None) if tensor is None or not tensor.dim() else (_sums(tensor), tensor.shape[1:])
            if layer not in given:
                count = 0 if rows is None else int(rows[0])
                given[layer] = Given(None if tensor is None else _entries(tensor), count, rows, shape)
                return
            known = given[layer]
            if known.rows is None or rows is None or known.shape != shape:
                known.rows = None
            else:
                known.rows = known.rows + rows

    with (
        quiet(module),
        torch.inference_mode(False),
        torch.enable_grad(),  # a forward may differentiate
        Untraced(module, (torch.initial_seed() + more) % 2**63)() as undo,
        ReferenceMode(module, None)(undo.modules),
        without_gradients(list(module.parameters())),
    ):
        before = _state(undo.modules)
        looks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
        try:
            call(batch)
        finally:
            for handle in looks:
                handle.remove()
        if _state(undo.modules) != before:
            # it set modes, as by self.train(), or wrote weights, which change inputs, too
            return {layer: Given(None, 0, None, None) for layer in given}
    return given


def agree(given: Inputs, expected: Inputs) -> bool:
    """Whether one run gave the same inputs as another to all layers that the other reached."""
    return all(layer in given and _same(given[layer], inputs) for layer, inputs in expected.items())


def on_parts(given: Inputs, samples: int) -> list[nn.Module]:
    """The layers that a run gave so many samples in several calls, of which the first had several and not all."""
    return [layer for layer, g in given.items() if g.rows is not None and 1 < g.count < samples == int(g.rows[0])]


def reaches_all(module: nn.Module, given: Inputs) -> bool:
    """Whether a run of a module gave inputs to all of its layers that can be solved."""
    return _layers(module) <= given.keys()


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


@contextmanager
def untouched(module: LightningModule, learned: Learned) -> Iterator[None]:
    """Put back what the user's own functions of a module's classes write to beside the module.

    Variables of their files, as lists of losses, attributes of classes, and those of the Trainer and of its datamodule.

    Args:
        module: the module, of which there is another record.
        learned: by earlier runs, added to.
    """
    undo = Undo(nn.Module(), learned, 0)
    undo.leave(module.modules())
    for kind in type(module).__mro__:
        if of_user(kind.__module__):
            undo.reach_attributes(kind)
            for value in vars(kind).values():
                if isinstance(value, FunctionType):
                    undo.reach(value)
    trainer: Any = module._trainer
    for owner in (trainer, getattr(trainer, "datamodule", None)):
        undo.reach_attributes(owner)
    try:
        undo.copy()
        yield
        undo.learn()
    finally:
        undo.restore()


@contextmanager
def transferred(module: LightningModule) -> Iterator[None]:
    """Put back what transfer hooks write to the module, as running statistics, and to attributes of its datamodule."""
    undo = Undo(module, Learned(), None)
    undo.reach_attributes(getattr(module._trainer, "datamodule", None))
    try:
        undo.copy()
        yield
    finally:
        undo.restore()


def _state(modules: Iterable[nn.Module]) -> list[tuple[bool | None, list[int]]]:
    """The modes of modules, and how often their parameters were written."""
    return [
        (getattr(module, "training", None), [version_of(p) for p in module.parameters(recurse=False) if not is_lazy(p)])
        for module in modules
    ]


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Stands for what writes to loggers."""


def _layers(module: nn.Module) -> set[nn.Module]:
    """The layers that can be solved and are called as modules."""
    inside = {m.out_proj for m in module.modules() if isinstance(m, nn.MultiheadAttention)}
    return {
        m
        for m in module.modules()
        if m not in inside and family(m) is not None and any(p.requires_grad for p in m.parameters(recurse=False))
    }


def _values(tensor: Tensor | None) -> Tensor | None:
    """The numbers of a tensor that can be compared."""
    if tensor is None or torch._C._functorch.peek_interpreter_stack() is not None:  # it stands for many in vmap
        return None
    found = tensor.detach()
    if found.layout is torch.sparse_coo:
        found = found.coalesce()
    if found.layout is not torch.strided:
        found = found.values()
    return torch.view_as_real(found) if found.is_complex() else found


def _entries(tensor: Tensor) -> Tensor:
    """The size of a tensor, and a copy of some of its entries."""
    flat = tensor.reshape(-1)
    # an odd step, so that not the same features are taken of every row
    taken = flat[:: flat.numel() // _ENTRIES | 1].double()
    return torch.cat([taken.nan_to_num(), taken.new_tensor([flat.numel()])])


def _sums(tensor: Tensor) -> Tensor:
    """The number of rows, and the sums over them of a linear form and of its squares."""
    rows = tensor.reshape(len(tensor), tensor.shape[1:].numel()).nan_to_num().float()  # of a call on none, too
    form = torch.arange(1, rows.shape[1] + 1, device=rows.device).sin().to(rows.dtype)
    values = (rows @ form).double()
    return torch.stack([values.new_tensor(len(tensor)), values.sum(), values.square().sum()])


def _same(found: Given, expected: Given) -> bool:
    if found.first is None or expected.first is None:
        return True
    if found.first.shape == expected.first.shape and found.first[-1] == expected.first[-1]:
        norm = float((found.first - expected.first)[:-1].norm())
        if norm <= _ROUNDING * float(expected.first[:-1].norm()):
            return True
    if found.rows is None or expected.rows is None or found.shape != expected.shape:
        return False
    (count, total, squares), (size, wanted, like) = found.rows.tolist(), expected.rows.tolist()
    # a sum is at most as large as the root of count times squares
    near = abs(total - wanted) <= _SUMS * (size * like) ** 0.5
    return bool(count == size and near and abs(squares - like) <= _SUMS * like)
