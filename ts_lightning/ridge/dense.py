"""The primal solve of a dense layer with all that is around it, in one operation.

A = [X, 1], the unit of the targets, and W as weight and bias. For narrow layers calls cost more than numbers do, and
autograd's are among them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.ridge.precision import cast
from ts_lightning.ridge.primal import pull_primal, solve_primal
from ts_lightning.ridge.system import RidgeSolver


def solve_dense(x: Tensor, t: Tensor, unit: float, solver: RidgeSolver, *, bias: bool) -> tuple[list[Tensor], Tensor]:
    """Weight (m, d) and bias (m,), the latter where there is one, and A W (N, m), for the targets ``unit`` T.

    Differentiable in X (N, d) and T (N, m), for as many rows in all processes as A has columns, or more.
    """
    weight, shift, z = DenseApply.apply(x, t, unit, bias, solver)  # type: ignore[no-untyped-call]
    return [weight] if shift is None else [weight, shift], z


class DenseApply(torch.autograd.Function):
    """(X, T) -> (weight, bias, A W) for the targets ``unit`` T."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, t: Tensor, unit: float, bias: bool, solver: RidgeSolver
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The weight (m, d), the bias (m,), None for none, and A W (N, m), for X (N, d) and T (N, m)."""
        a = x
        if bias:
            a = torch.cat([x, x.new_ones(len(x), 1)], 1)
        elif solver.keep is not None:
            a = x.clone()  # what is kept outlasts changes of the input in place
        shaped = ctx.needs_input_grad[0]
        ctx.solved, w, achieved, excess = solve_primal(a, t, solver, unit, inputs=x, shaped=shaped, ones=bias)
        ctx.unit, ctx.bias, ctx.output = unit, bias, t.dtype
        ctx.save_for_backward(a, w, excess)
        ctx.set_materialize_grads(False)
        z = cast(achieved, x.dtype)
        return (w.mT[:, :-1], w.mT[:, -1], z) if bias else (w.mT, None, z)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, dweight: Tensor | None, dbias: Tensor | None, dz: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """The gradients on X and T."""
        if dweight is None and dbias is None and dz is None:
            return None, None, None, None, None
        tensors = ctx.saved_tensors
        a, w = tensors[:2]
        dw = dweight
        if ctx.bias and (dweight is not None or dbias is not None):
            dweight = w.new_zeros(w.shape[1], w.shape[0] - 1) if dweight is None else dweight
            dbias = w.new_zeros(w.shape[1]) if dbias is None else dbias
            dw = torch.cat([dweight, dbias.unsqueeze(1)], 1)
        dt, da = pull_primal(ctx.solved, tensors, None if dw is None else dw.mT, dz, inputs=ctx.needs_input_grad[0])
        dx = None if da is None else cast(da[:, :-1] if ctx.bias else da, a.dtype)
        return dx, cast(dt if ctx.unit == 1 else dt.mul_(ctx.unit), ctx.output), None, None, None
