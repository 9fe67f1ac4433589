"""The primal solves (N >= d) and their gradients, by the formulas of ``system.py``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.ridge.factor import Factor
from ts_lightning.ridge.gradients import add_product, plus_product, sum_gradients
from ts_lightning.ridge.kept import Matrix, PrimalMap
from ts_lightning.ridge.moments import matrix_moments, sum_moments
from ts_lightning.ridge.precision import cast
from ts_lightning.ridge.processes import Rows
from ts_lightning.ridge.system import RidgeSolver

#: a system of its own: which columns of A are its inputs, and which of T its targets, as slices of step 1
Block = tuple[slice, slice]
#: all of A and T
WHOLE: Block = (slice(None), slice(None))


@dataclass
class PrimalSolved:
    """What a primal solve leaves for its backward pass, beside tensors that autograd saves.

    Attributes:
        solver: the ridge.
        factor: of A'A + R.
        rows: how the rows of A are spread.
    """

    solver: RidgeSolver
    factor: Factor
    rows: Rows


def solve_primal(
    a: Tensor, t: Tensor, solver: RidgeSolver, unit: float = 1.0, *, inputs: Tensor, shaped: bool, ones: bool = False
) -> tuple[PrimalSolved, Tensor, Tensor, Tensor | None]:
    """Solve for the targets ``unit`` T.

    Args:
        a: A (..., N, d).
        t: T (..., N, m).
        solver: the ridge.
        unit: of T.
        inputs: A, or what it is made of.
        shaped: whether something that is trained has shaped these.
        ones: whether the last column of A is of ones.

    Returns:
        What the backward pass needs; W (..., d, m) in T's precision; in the factor's, A W and, where the inputs are
        shaped, A W - ``unit`` T.
    """
    rows = solver.rows(a.shape[-2])
    products: dict[torch.dtype, Tensor] = {}

    def moments(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        x = cast(a, dtype)
        gram, sums = matrix_moments(x, ones=ones and rows.ranks == 1)
        products[dtype] = x.mT @ cast(t, dtype)
        sum_moments(rows, gram, sums, products[dtype])
        return gram, sums

    factor = solver.factor(inputs, shaped, lambda: solver.primal(moments, rows.total, a.dtype))
    dtype = factor.cholesky.dtype
    w = factor.solve(products[dtype] if products else cast(a, dtype).mT @ cast(t, dtype))
    w = cast(w if unit == 1 else w.mul_(unit), t.dtype)
    solver.check(w, t)
    achieved = cast(a, dtype) @ cast(w, dtype)
    # what the backward pass of the inputs needs
    excess = torch.sub(achieved, cast(t, dtype), alpha=unit) if shaped else None
    if solver.observer is not None:
        wanted = t if unit == 1 else cast(t, dtype) * unit
        solver.observer([factor], wanted, lambda: wanted - achieved)
    if solver.keep is not None:
        solver.keep(PrimalMap(Matrix(a), factor.cholesky))
    return PrimalSolved(solver, factor, rows), w, achieved, excess


def pull_primal(
    solved: PrimalSolved, tensors: Sequence[Tensor], dw: Tensor | None, dz: Tensor | None, *, inputs: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients on ``unit`` T and on A, in the factor's precision.

    Args:
        solved: the solve.
        tensors: its A, W, and A W - ``unit`` T where the gradient on A is wanted.
        dw: the gradient on W, if there is one.
        dz: the gradient on A W, if there is one.
        inputs: whether the gradient on A is wanted.
    """
    factor = solved.factor
    a, w = (cast(tensor, factor.cholesky.dtype) for tensor in tensors[:2])
    g = torch.zeros_like(w) if dw is None else cast(dw, w.dtype)
    if dz is not None:
        dz = cast(dz, w.dtype)
        g = plus_product(g.mT, dz.mT, a).mT  # laid out as its transpose, (m, d), which is how layers hold weights
    v = factor.solve(sum_gradients(g, solved.rows, solved.solver, inside=dz is not None))
    dt = a @ v
    if not inputs:
        return dt, None
    # the negative of both products, so that neither dt nor the excess has to be negated
    da = add_product((dt if dz is None else dt - dz) @ w.mT, cast(tensors[2], w.dtype), v.mT).neg_()
    return dt, factor.measured.add_gradient(da, a, factor.measured.weighed(v, w, factor.ridge))


class PrimalApply(torch.autograd.Function):
    """(A, T) -> (W, A W): solve and apply in one operation, which share their backward (saves two passes over A)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, solver: RidgeSolver) -> tuple[Tensor, Tensor]:
        """W (..., d, m) and A W (..., N, m)."""
        ctx.solved, w, achieved, excess = solve_primal(a, t, solver, inputs=a, shaped=ctx.needs_input_grad[0])
        ctx.output = t.dtype
        ctx.save_for_backward(a, w, excess)
        ctx.set_materialize_grads(False)
        return w, cast(achieved, a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients on A and T."""
        if dw is None and dz is None:
            return None, None, None
        tensors = ctx.saved_tensors
        dt, da = pull_primal(ctx.solved, tensors, dw, dz, inputs=ctx.needs_input_grad[0])
        return None if da is None else cast(da, tensors[0].dtype), cast(dt, ctx.output), None


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
