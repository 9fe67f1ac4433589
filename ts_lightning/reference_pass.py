"""The reference pass: what it is run on, in which mode the model is, and how layers are stood in for during it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from ts_lightning.batches import mapped, own
from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers import TargetLayer, Visit
from ts_lightning.shards import Shards

#: what the reference forward is run on: the model's input, its inputs, or a function that runs the model
Reference = Tensor | Sequence[Any] | Mapping[str, Any] | Callable[[], Any]


def runner(model: nn.Module, batch: Any, forward: Callable[[Any], Any] | None) -> Callable[[], Any]:
    """A function that runs the model on a fresh copy of the batch: a forward may change its input in place.

    Args:
        model: the model.
        batch: the reference batch, or a function without arguments that runs the model.
        forward: runs the model on a batch; ``None`` calls it with the batch's items.
    """
    if forward is not None:
        return lambda: forward(mapped(batch, own))
    if isinstance(batch, Tensor):
        return lambda: model(own(batch))
    if isinstance(batch, Mapping):
        return lambda: model(**mapped(batch, own))
    if isinstance(batch, (tuple, list)):
        return lambda: model(*mapped(batch, own))
    if callable(batch):
        run: Callable[[], Any] = batch
        return run
    raise TargetSpaceError(
        f"reference: found {type(batch).__name__}; expected a tensor, a tuple of the model's inputs, or a function "
        f"that runs the model."
    )


@contextmanager
def reference_mode(model: nn.Module, shards: Shards | None = None) -> Iterator[None]:
    """Dropout off, batch norm on the reference batch's own statistics, the random state left as it was found.

    With ``shards``, batch norm's statistics are those of all processes' samples. Compiled modules run as they were
    written, since the layers in them are stood in for.
    """
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
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([device.index] if device.type == "cuda" else []))
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if shards is not None:
                batch_norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
                stack.enter_context(_forwards({norm: partial(_shared_norm, norm, shards) for norm in batch_norms}))
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
    parts: dict[nn.Module, list[TargetLayer]] = {}
    for layer in layers:
        parts.setdefault(layer.module, []).append(layer)
    with _forwards({module: partial(inside[0].forward, inside, visit) for module, inside in parts.items()}):
        yield


@contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Give modules another forward for a while."""
    kept = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own_forward in kept.items():
            if own_forward is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = own_forward


class _Normalised(torch.autograd.Function):
    """x (N, C, ...) less the mean and over the standard deviation of all processes' samples; one message each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, shards: Shards) -> Tensor:
        dims, count = [0, *range(2, x.dim())], x.numel() // x.shape[1]
        means = x.sum(dims) / max(count, 1)
        squares = (x - _spread(means, x)).square().sum(dims)
        mine = torch.cat([means, squares, means.new_tensor([count])])
        everyone = shards.gather([1] * shards.ranks, mine.unsqueeze(0))[0]
        counts, (means, squares) = everyone[:, -1:], everyone[:, :-1].chunk(2, 1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (squares + counts * (means - mean).square()).sum(0) / total
        scale = (variance + eps).rsqrt()
        ctx.shards = shards
        ctx.save_for_backward(x, mean, scale, total)
        return (x - _spread(mean, x)) * _spread(scale, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, mean, scale, total = ctx.saved_tensors
        dims = [0, *range(2, x.dim())]
        out = (x - _spread(mean, x)) * _spread(scale, x)
        sums = torch.stack([gradient.sum(dims), (gradient * out).sum(dims)])
        ctx.shards.sum(sums)
        shift, slope = sums / total
        return (gradient - _spread(shift, x) - out * _spread(slope, x)) * _spread(scale, x), None, None


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """``values`` (C) in a shape that fits ``x`` (N, C, ...)."""
    return values.view(1, -1, *[1] * (x.dim() - 2))


def _shared_norm(norm: _BatchNorm, shards: Shards, x: Tensor) -> Tensor:
    """Batch norm of ``x`` (N, C, ...) with the mean and the biased variance of all processes' samples."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    out: Tensor = _Normalised.apply(wide, norm.eps, shards)  # type: ignore[no-untyped-call]
    if norm.affine:
        out = out * _spread(norm.weight, x) + _spread(norm.bias, x)
    return out.to(x.dtype)
