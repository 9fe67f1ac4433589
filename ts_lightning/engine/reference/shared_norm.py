"""Batch norm in the reference pass of several processes: on the samples of all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from ts_lightning.ridge.processes import Shards


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


def shared_norm(norm: _BatchNorm, shards: Shards, x: Tensor) -> Tensor:
    """Batch norm of ``x`` (N, C, ...) with the mean and the biased variance of all processes' samples."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    out: Tensor = _Normalised.apply(wide, norm.eps, shards)  # type: ignore[no-untyped-call]
    if norm.affine:
        out = out * _spread(norm.weight, x) + _spread(norm.bias, x)
    return out.to(x.dtype)
