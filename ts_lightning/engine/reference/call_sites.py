"""Where a forward calls a layer: at some places it cannot be solved, or solved weights would not be those that run.

Gradients may be off there (``torch.no_grad``, ``torch.inference_mode``, inside of a ``torch.autograd.Function``), so
that none would reach the targets. A transform of ``torch.func`` (``vmap``, ``jacrev``, ``jvp``) runs the layer on one
sample, or on derivatives, in the place of the rows. ``functional_call`` runs it with other weights than its own. The
samples of a nested tensor have no common shape. The columns of a sparse one would have to be dense for a solve. Threads
that the forward starts call layers in an order that may be another each time, and in each process.

A layer that is called so and plainly as well is solved at its first plain call. Calls without gradients and in
transforms that come later run with the solved weights. Those ahead of it, and all with other weights, are *beside* the
solves: they run with the weights that the layer has, and no solve may depend on them (``beside.py``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ts_lightning.engine.running.batches import tensors_in
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

WITHOUT_GRADIENTS = "called where gradients are off"
IN_A_TRANSFORM = "called in a transform of torch.func"
OTHER_WEIGHTS = "called with other weights than its own"
ON_NESTED = "called on a nested tensor"
ON_SPARSE = "called on a sparse tensor"
IN_A_THREAD = "called in a thread of its own"


def unfit_site() -> str | None:
    """Why no layer can be solved where the program is now, in a few words; None where it can."""
    if not torch.is_grad_enabled():
        return WITHOUT_GRADIENTS
    transformed = torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
    return IN_A_TRANSFORM if transformed else None


def in_a_function() -> bool:
    """Whether the program is in the forward of an ``autograd.Function``, whose backward may run it with gradients."""
    codes, kinds = set[CodeType](), [torch.autograd.Function]
    while kinds:
        kind = kinds.pop()
        codes.add(kind.forward.__code__)
        kinds += kind.__subclasses__()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return frame is not None


def handed_to_a_transform(given: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors that transforms were given from outside, of those that a function is given within them."""
    for value in given:
        while isinstance(value, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(value):
            value = torch._C._functorch.get_unwrapped(value)
            yield value


def calling_module() -> nn.Module | None:
    """The module whose method is the nearest on the call stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(first, nn.Module):
            return first
        frame = frame.f_back
    return None


def unfit_call(layer: TargetLayer, x: Any, thread: int) -> str | None:
    """The same for a call of a layer on ``x``, in this or in another thread than that of the pass.

    Its module holds its own parameters or others for the moment.
    """
    if get_ident() != thread:
        return IN_A_THREAD
    why = unfit_site()
    if why is None and any(tensor.is_nested for tensor in tensors_in(x)):
        return ON_NESTED
    if why is None and any(tensor.layout != torch.strided for tensor in tensors_in(x)):
        return ON_SPARSE
    return OTHER_WEIGHTS if why is None and with_other_weights(layer) else why


def with_other_weights(layer: TargetLayer) -> bool:
    """Whether a layer's module holds other parameters than its own for the moment."""
    if layer.by_function:
        return False
    present = set(map(id, layer.module.parameters()))
    return any(id(parameter) not in present for parameter in layer.parameters)


def passes_by(why: str) -> bool:
    """Whether a layer may be called so beside a plain call, at which it is solved.

    Not within an ``autograd.Function``: its backward may run the layer again, so that gradients go through it.
    """
    return why in (IN_A_TRANSFORM, OTHER_WEIGHTS) or (why == WITHOUT_GRADIENTS and not in_a_function())


def refused_call(layer: TargetLayer, why: str) -> TargetSpaceError:
    """The error of a layer that is called so."""
    hints = {
        WITHOUT_GRADIENTS: "torch.no_grad, torch.inference_mode or an autograd.Function, in eval mode, in which the "
        "reference batch is run; no gradient would reach its targets",
        IN_A_TRANSFORM: "as vmap, jacrev or jvp; the rows of its input are not seen there",
        ON_NESTED: "whose samples have no common shape; padded ones have, as torch.nested.to_padded_tensor gives them",
        ON_SPARSE: "of which no Gram matrix is made; call it on x.to_dense() to solve it",
        IN_A_THREAD: "that forward starts, as by ThreadPoolExecutor; the order of such calls may be another each time",
        OTHER_WEIGHTS: "as by functional_call; solved weights would not be those that run",
    }
    return TargetSpaceError(
        f"layer '{layer.name}' is {why} ({hints[why]}). Add '{layer.module_name}' to exclude, or override "
        f"reference_forward to call it otherwise."
    )
