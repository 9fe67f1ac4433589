"""The differentiable ridge solves: W with A W for one system, and W alone for blocks that share their rows.

The gradients are those of ``ridge.py``; one Cholesky factor serves forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ts_lightning.config import RidgeScale, check_choice, check_positive
from ts_lightning.precision import full_precision
from ts_lightning.ridge import Factor, RidgeSolver, matrix_moments, sum_moments
from ts_lightning.shards import Rows, ShardedRows, Shards

#: a system of its own: which columns of A are its inputs, and which of T its targets, as slices of step 1
Block = tuple[slice, slice]
#: all of A and T
WHOLE: Block = (slice(None), slice(None))


def sum_gradients(g: Tensor, rows: Rows, solver: RidgeSolver, *, inside: bool = False) -> Tensor:
    """dL/dW added up over the processes that hold rows; without a message where it is the same in all of them.

    Args:
        g: this process's.
        rows: where the rows are.
        solver: says whether dL/dW itself comes from outside of the reference pass.
        inside: whether ``g`` holds more than dL/dW, a part A'(dL/dZ) of this process's rows.
    """
    if rows.ranks == 1:
        return g
    if solver.outside and not inside:
        return g * rows.ranks
    total = g.clone(memory_format=torch.contiguous_format)
    rows.sum(total)
    return total


class _SolveApply(torch.autograd.Function):
    """(A, T) -> (W, A W): solve and apply in one operation, which share their backward (saves two passes over A).

    W and its gradients are laid out as their transposes, (m, d), which is how layers hold weights.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, solver: RidgeSolver) -> tuple[Tensor, Tensor]:
        rows = solver.rows(a.shape[-2])
        whole = a
        if rows.total < a.shape[-1]:
            whole, wanted = rows.gather(a, t)
            factor = solver.dual(whole)
            dtype = factor.cholesky.dtype
            residual = factor.solve(wanted)  # (T - A W) / c, of all rows
            w = factor.unscale((residual.mT @ whole.to(dtype)).mT).to(t.dtype)
            solver.check(w, t)
            missed = factor.c.unsqueeze(-1) * residual[..., rows.own, :]
            # in half precision, what the rounded weights give
            z = a @ w.to(a.dtype) if a.dtype.itemsize < 4 else (t - missed).to(a.dtype)
        else:
            products: dict[torch.dtype, Tensor] = {}

            def moments(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
                x = a.to(dtype)
                gram, sums = matrix_moments(x)
                products[dtype] = x.mT @ t.to(dtype)
                sum_moments(rows, gram, sums, products[dtype])
                return gram, sums

            factor = solver.primal(moments, rows.total, a.dtype)
            dtype = factor.cholesky.dtype
            w = factor.solve(products[dtype]).to(t.dtype)
            solver.check(w, t)
            achieved = a.to(dtype) @ w.to(dtype)
            missed = residual = t.to(dtype) - achieved
            z = achieved.to(a.dtype)
        if solver.observer is not None:
            solver.observer([factor], t, lambda: missed)
        ctx.solver, ctx.factor, ctx.rows, ctx.output = solver, factor, rows, t.dtype
        ctx.save_for_backward(a, whole, residual, w)
        ctx.set_materialize_grads(False)
        return w, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        a, whole, residual, w = ctx.saved_tensors
        factor: Factor = ctx.factor
        dtype = factor.cholesky.dtype
        if dw is None and dz is None:
            return None, None, None
        ax, wx = a.to(dtype), w.to(dtype)
        dw, dz = (None if gradient is None else gradient.to(dtype) for gradient in (dw, dz))
        if factor.dual:
            da, dt, cvw = _dual_gradients(ctx, ax if whole is a else whole.to(dtype), residual, wx, dw, dz)
        else:
            g = torch.zeros_like(wx) if dw is None else dw
            g = g if dz is None else g + (dz.mT @ ax).mT
            v = factor.solve(sum_gradients(g, ctx.rows, ctx.solver, inside=dz is not None))
            dt = ax @ v
            cvw = factor.c * (v * wx).sum(-1)
            da = None
            if ctx.needs_input_grad[0]:
                da = _add_product(residual @ v.mT, -dt if dz is None else dz - dt, wx.mT)
        if da is not None:
            gradient = ctx.solver.scale_gradient(factor, cvw)
            if gradient is not None:
                gain, offset = gradient
                da = da.addcmul_(ax, gain.unsqueeze(-2))
                if offset is not None:
                    da += offset.unsqueeze(-2)
            da = da.to(a.dtype)
        return da, dt.to(ctx.output), None


def _add_product(to: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``to`` with a product added, in place."""
    return to.addmm_(left, right) if to.dim() == 2 else to.add_(left @ right)


def _dual_gradients(
    ctx: Any, a: Tensor, r: Tensor, w: Tensor, dw: Tensor | None, dz: Tensor | None
) -> tuple[Tensor | None, Tensor, Tensor]:
    """The gradients on this process's rows of A (without R's share) and T, and c (V * W) summed over outputs.

    With r = (T - A W) / c and P = (K + c I)^-1 (A S^-2 dW - c dZ), where dZ arrives on A W,

        dL/dT = P + dZ    c V = S^-2 (dW - A'P)    dL/dA = r (c V)' - P W' = (r dW' - (r P' + P r') A) S^-2

    so that few products are as large as W, and none for dZ. Where R is c I the sum of c V * W is all that is needed.

    Args:
        ctx: of :class:`_SolveApply`.
        a: A, all rows.
        r: r, all rows.
        w: W.
        dw: what arrives on W, of this process, or nothing.
        dz: what arrives on A W, at this process's rows, or nothing.
    """
    factor: Factor = ctx.factor
    own, c = ctx.rows.own, factor.c.unsqueeze(-1)
    if dz is not None:
        (dz,) = ctx.rows.gather(dz)
    right: Tensor | None = None
    if dw is not None:
        dw = factor.unscale(sum_gradients(dw, ctx.rows, ctx.solver))
        right = a @ dw
    if dz is not None:
        right = -c * dz if right is None else right.sub_(c * dz)
    assert right is not None
    p = factor.solve(right)
    dt = p if dz is None else p + dz
    if not ctx.needs_input_grad[0]:
        return None, dt[..., own, :], dt
    if factor.scale.s2 is None and r.shape[-2] <= 2 * r.shape[-1]:
        cvw = factor.c * (dt * r).sum((-2, -1)).unsqueeze(-1)
        mixed = _add_product(r[..., own, :] @ p.mT, p[..., own, :], r.mT)
        da = -mixed @ a if dw is None else _add_product(r[..., own, :] @ dw.mT, -mixed, a)
    else:
        v = -factor.unscale((p.mT @ a).mT)
        v = v if dw is None else v.add_(dw)
        cvw = (v * w).sum(-1)
        da = _add_product(r[..., own, :] @ v.mT, -p[..., own, :], w.mT)
    return da, dt[..., own, :], cvw


class _SolveBlocks(torch.autograd.Function):
    """(A, T) -> W, primal, without A W: dL/dA is T V' - A (W V' + V W' - diag(k)) + 1 h', summed over the blocks.

    One product of A and T serves all blocks in the solve, and one each for the gradients on A and on T, with zeros in W
    and V elsewhere.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, solver: RidgeSolver, blocks: Sequence[Block]) -> Tensor:
        rows = solver.rows(a.shape[-2])
        products: dict[torch.dtype, tuple[Tensor, Tensor, Tensor]] = {}

        def product(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
            if dtype not in products:
                x = a.to(dtype)
                products[dtype] = (*matrix_moments(x), x.mT @ t.to(dtype))
                sum_moments(rows, *products[dtype])
            return products[dtype]

        factors: list[Factor] = []
        w = t.new_zeros(*a.shape[:-2], a.shape[-1], t.shape[-1])
        for inputs, outputs in blocks:

            def moments(dtype: torch.dtype, inputs: slice = inputs) -> tuple[Tensor, Tensor]:
                gram, sums, _ = product(dtype)
                gram = gram[..., inputs, inputs]
                return gram.clone() if len(blocks) > 1 else gram, sums[..., inputs]

            factor = solver.primal(moments, rows.total, a.dtype)
            w[..., inputs, outputs] = factor.solve(product(factor.cholesky.dtype)[2][..., inputs, outputs])
            factors.append(factor)
        solver.check(w, t)
        if solver.observer is not None:
            dtype = factors[0].cholesky.dtype
            solver.observer(factors, t, lambda: t.to(dtype) - a.to(dtype) @ w.to(dtype))
        ctx.solver, ctx.factors, ctx.blocks, ctx.rows = solver, factors, blocks, rows
        ctx.save_for_backward(a, t, w)
        return w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        a, t, w = ctx.saved_tensors
        dtype = max((factor.cholesky.dtype for factor in ctx.factors), key=lambda dtype: torch.finfo(dtype).bits)
        ax, wx = a.to(dtype), w.to(dtype)
        g = sum_gradients(dw.to(dtype), ctx.rows, ctx.solver)
        v = torch.zeros_like(wx)
        gain, offset = v.new_zeros(v.shape[:-1]), None
        for factor, (inputs, outputs) in zip(ctx.factors, ctx.blocks, strict=True):
            v[..., inputs, outputs] = factor.solve(g[..., inputs, outputs])
            cvw = factor.c * (v[..., inputs, outputs] * wx[..., inputs, outputs]).sum(-1)
            gradient = ctx.solver.scale_gradient(factor, cvw)
            if gradient is not None:
                gain[..., inputs] += gradient[0]
                if gradient[1] is not None:
                    offset = torch.zeros_like(gain) if offset is None else offset
                    offset[..., inputs] += gradient[1]
        da = None
        if ctx.needs_input_grad[0]:
            vw = v @ wx.mT
            vw += vw.mT.clone()
            vw.diagonal(dim1=-2, dim2=-1).sub_(gain)
            da = t.to(dtype) @ v.mT
            da -= ax @ vw
            if offset is not None:
                da += offset.unsqueeze(-2)
            da = da.to(a.dtype)
        return da, (ax @ v).to(t.dtype), None, None


def solve_apply(a: Tensor, t: Tensor, solver: RidgeSolver) -> tuple[Tensor, Tensor]:
    """W and Z = A W, differentiable in A (..., N, d) and T (..., N, m)."""
    w, z = _SolveApply.apply(a, t, solver)  # type: ignore[no-untyped-call]
    return w, z


def solve(a: Tensor, t: Tensor, solver: RidgeSolver, blocks: Sequence[Block] = (WHOLE,)) -> Tensor:
    """W alone, differentiable in A (..., N, d) and T (..., N, m).

    Args:
        a: the inputs of all blocks.
        t: the targets of all blocks.
        solver: the ridge.
        blocks: systems that are solved each for itself, whose targets are all of T's columns in order; W (..., d, m) is
            0 outside of them.
    """
    columns = a.shape[-1]
    # the form without a residual spends N d d on A (V W' + W V') and saves 2 N d m
    if solver.rows(a.shape[-2]).total >= columns and (len(blocks) > 1 or columns < 2 * t.shape[-1]):
        return _SolveBlocks.apply(a, t, solver, blocks)  # type: ignore[no-any-return, no-untyped-call]
    parts = []
    for inputs, outputs in blocks:
        w = solve_apply(a[..., inputs], t[..., outputs], solver)[0]
        first, last, _ = inputs.indices(columns)
        parts.append(functional.pad(w, (0, 0, first, columns - last)))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def ridge_solve(
    a: Tensor,
    t: Tensor,
    ridge: float,
    *,
    scale: RidgeScale = "absolute",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Solve W = (A'A + R)^-1 A'T, differentiably; primal for N >= d and dual otherwise.

    Half-precision input is accumulated and factorised in float32; float64 is used where float32 cannot hold A'A.

    With a ``group``, A and T are this process's rows (any number, none too) of a system that all of its processes solve
    together, to the same W bit for bit; the gradient on W is then the sum of theirs.

    Args:
        a: inputs A, shape (..., N, d).
        t: targets T, shape (..., N, m).
        ridge: the ridge constant, above 0, in the unit that ``scale`` says.
        scale: the unit of ``ridge``: "absolute": R = ridge I; "variance": R = ridge trace(B'B) / N I, where B is A
            without its columns' means; "mean": R = ridge trace(A'A) / d I; "feature": R = ridge diag(A'A).
        group: the processes that hold rows; ``None`` where all rows are here.

    Returns:
        W, shape (..., d, m), in the precision of ``t``.

    Raises:
        TargetSpaceError: A or T holds a NaN or an infinity.
        ValueError: shapes do not fit, the ridge is not above 0, or the scale is unknown.

    Source: Fairbank et al. (2022), equation 5; the scales are this package's.
    """
    if a.dim() < 2 or t.dim() < 2 or a.shape[:-1] != t.shape[:-1]:
        raise ValueError(
            f"ridge_solve: found A {tuple(a.shape)} and T {tuple(t.shape)}; expected (..., N, d) and (..., N, m)."
        )
    check_positive("ridge", ridge)
    check_choice("scale", scale, get_args(RidgeScale))
    solver = RidgeSolver(ridge, scale)
    if group is not None:
        shards = Shards(group, 0)
        solver.shared = ShardedRows(shards, shards.objects(a.shape[-2]))
    if 0 in (solver.rows(a.shape[-2]).total, *a.shape[:-2], a.shape[-1]):
        raise ValueError(f"ridge_solve: found an empty A, {tuple(a.shape)}; expected at least one row and one column.")
    with full_precision(a.device):
        return solve(a, t, solver)
