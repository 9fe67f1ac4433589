"""The reference pass: what it is run on, in which mode the model is, and how layers are stood in for during it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers import TargetLayer, Visit
from ts_lightning.reference import own

#: what the reference forward is run on: the model's input, its positional inputs, or a function that runs the model
Reference = Tensor | Sequence[Any] | Callable[[], Any]


def runner(model: nn.Module, reference: Reference) -> Callable[[], Any]:
    """A function that runs the model on a fresh copy of the reference: a forward may change its input in place."""
    if isinstance(reference, Tensor):
        return runner(model, (reference,))
    if callable(reference):
        return reference
    if isinstance(reference, (tuple, list)):
        kept = [own(item) if isinstance(item, Tensor) else item for item in reference]
        return lambda: model(*(item.clone() if isinstance(item, Tensor) else item for item in kept))
    raise TargetSpaceError(
        f"reference: found {type(reference).__name__}; expected a tensor, a tuple of the model's inputs, or a function "
        f"that runs the model."
    )


@contextmanager
def reference_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off, batch norm on the reference batch's own statistics, the random state left as it was found."""
    modes = [(module, module.training) for module in model.modules()]
    norms = [(m, dict(m._buffers)) for m in model.modules() if isinstance(m, _NormBase) and m.track_running_stats]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    fastpath = torch.backends.mha.get_fastpath_enabled()
    try:
        for module, _ in modes:
            module.training = isinstance(module, _NormBase)
        for norm, _ in norms:
            norm.track_running_stats = False
            # an instance norm writes to running statistics for as long as it has any
            norm._buffers.update(running_mean=None, running_var=None)
        # the fused inference kernels of transformers bypass the layers
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.random.fork_rng([device.index] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for norm, statistics in norms:
            norm.track_running_stats = True
            norm._buffers.update(statistics)
        for module, training in modes:
            module.training = training


@contextmanager
def replaced(layers: Sequence[TargetLayer], visit: Visit) -> Iterator[None]:
    """Let ``visit`` stand for each layer's forward, so that their modules' own hooks still run around them."""
    kept = {layer.module: layer.module.__dict__.get("forward") for layer in layers}
    try:
        for module in kept:
            inside = [layer for layer in layers if layer.module is module]
            module.__dict__["forward"] = partial(inside[0].forward, inside, visit)
        yield
    finally:
        for module, forward in kept.items():
            if forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = forward
