"""The primal solves (N >= d) and their gradients, by the formulas of ``system.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.ridge.gradients import add_product, add_scale_gradient, sum_gradients
from ts_lightning.ridge.kept import Matrix, PrimalMap
from ts_lightning.ridge.moments import matrix_moments, sum_moments
from ts_lightning.ridge.precision import cast
from ts_lightning.ridge.system import Factor, RidgeSolver

#: a system of its own: which columns of A are its inputs, and which of T its targets, as slices of step 1
Block = tuple[slice, slice]
#: all of A and T
WHOLE: Block = (slice(None), slice(None))


class PrimalApply(torch.autograd.Function):
    """(A, T) -> (W, A W): solve and apply in one operation, which share their backward (saves two passes over A)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, solver: RidgeSolver) -> tuple[Tensor, Tensor]:
        """W (..., d, m) and A W (..., N, m)."""
        rows = solver.rows(a.shape[-2])
        products: dict[torch.dtype, Tensor] = {}

        def moments(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
            x = cast(a, dtype)
            gram, sums = matrix_moments(x)
            products[dtype] = x.mT @ cast(t, dtype)
            sum_moments(rows, gram, sums, products[dtype])
            return gram, sums

        factor = solver.primal(moments, rows.total, a.dtype)
        dtype = factor.cholesky.dtype
        w = cast(factor.solve(products[dtype]), t.dtype)
        solver.check(w, t)
        achieved = cast(a, dtype) @ cast(w, dtype)
        residual = cast(t, dtype) - achieved
        if solver.observer is not None:
            solver.observer([factor], t, lambda: residual)
        if solver.keep is not None:
            solver.keep(PrimalMap(Matrix(a), factor.cholesky))
        ctx.solver, ctx.factor, ctx.rows, ctx.output = solver, factor, rows, t.dtype
        ctx.save_for_backward(a, residual, w)
        ctx.set_materialize_grads(False)
        return w, cast(achieved, a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients on A and T."""
        if dw is None and dz is None:
            return None, None, None
        a, residual, w = ctx.saved_tensors
        factor: Factor = ctx.factor
        dtype = factor.cholesky.dtype
        ax, wx = cast(a, dtype), cast(w, dtype)
        g = torch.zeros_like(wx) if dw is None else cast(dw, dtype)
        if dz is not None:
            dz = cast(dz, dtype)
            g = g + (dz.mT @ ax).mT  # laid out as its transpose, (m, d), which is how layers hold weights
        v = factor.solve(sum_gradients(g, ctx.rows, ctx.solver, inside=dz is not None))
        dt, da = ax @ v, None
        if ctx.needs_input_grad[0]:
            da = add_product(residual @ v.mT, -dt if dz is None else dz - dt, wx.mT)
            cvw = factor.c * (v * wx).sum(-1)
            da = cast(add_scale_gradient(da, ax, factor, cvw), a.dtype)
        return da, cast(dt, ctx.output), None


class PrimalBlocks(torch.autograd.Function):
    """(A, T) -> W, without A W: dL/dA is T V' - A (W V' + V W' - diag(k)) + 1 h', summed over the blocks.

    One product of A and T serves all blocks in the solve, and one each for the gradients on A and on T, with zeros in W
    and V elsewhere.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, solver: RidgeSolver, blocks: Sequence[Block]) -> Tensor:
        """W (..., d, m), 0 outside of the blocks."""
        rows = solver.rows(a.shape[-2])
        products: dict[torch.dtype, tuple[Tensor, Tensor, Tensor]] = {}

        def product(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
            if dtype not in products:
                x = cast(a, dtype)
                products[dtype] = (*matrix_moments(x), x.mT @ cast(t, dtype))
                sum_moments(rows, *products[dtype])
            return products[dtype]

        factors: list[Factor] = []
        w = t.new_zeros(*a.shape[:-2], a.shape[-1], t.shape[-1])
        for inputs, outputs in blocks:

            def moments(dtype: torch.dtype, inputs: slice = inputs) -> tuple[Tensor, Tensor]:
                gram, sums, _ = product(dtype)
                gram = gram[..., inputs, inputs]
                return gram.clone() if len(blocks) > 1 else gram, sums[..., inputs]

            factor = solver.of(inputs).primal(moments, rows.total, a.dtype)
            w[..., inputs, outputs] = factor.solve(product(factor.cholesky.dtype)[2][..., inputs, outputs])
            factors.append(factor)
            if solver.keep is not None:
                solver.keep(PrimalMap(Matrix(a[..., inputs]), factor.cholesky))
        solver.check(w, t)
        if solver.observer is not None:
            dtype = factors[0].cholesky.dtype
            solver.observer(factors, t, lambda: cast(t, dtype) - cast(a, dtype) @ cast(w, dtype))
        ctx.solver, ctx.factors, ctx.blocks, ctx.rows = solver, factors, blocks, rows
        ctx.save_for_backward(a, t, w)
        return w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """The gradients on A and T."""
        a, t, w = ctx.saved_tensors
        dtype = max((factor.cholesky.dtype for factor in ctx.factors), key=lambda dtype: torch.finfo(dtype).bits)
        ax, wx = cast(a, dtype), cast(w, dtype)
        g = sum_gradients(cast(dw, dtype), ctx.rows, ctx.solver)
        v = torch.zeros_like(wx)
        k, h = v.new_zeros(v.shape[:-1]), None
        for factor, (inputs, outputs) in zip(ctx.factors, ctx.blocks, strict=True):
            v[..., inputs, outputs] = factor.solve(g[..., inputs, outputs])
            cvw = factor.c * (v[..., inputs, outputs] * wx[..., inputs, outputs]).sum(-1)
            dsquares, dmeans = factor.measured.gradient(cvw)
            if dsquares is not None:
                k[..., inputs].sub_(dsquares, alpha=2)
            if dmeans is not None:
                h = torch.zeros_like(k) if h is None else h
                h[..., inputs].sub_(dmeans, alpha=1 / ctx.rows.total)
        da = None
        if ctx.needs_input_grad[0]:
            vw = v @ wx.mT
            vw += vw.mT.clone()
            vw.diagonal(dim1=-2, dim2=-1).sub_(k)
            da = cast(t, dtype) @ v.mT
            da -= ax @ vw
            if h is not None:
                da += h.unsqueeze(-2)
            da = cast(da, a.dtype)
        return da, cast(ax @ v, t.dtype), None, None
