"""The dual solve (N < d), and its gradients in a form with few products as large as W.

With K = A S^-2 A', r = (K + c I)^-1 T, so that W = S^-2 A' r and A W = T - c r, and with what arrives on W and on A W,

    P = (K + c I)^-1 (A S^-2 dW - c dZ)    dL/dT = P + dZ    c V = S^-2 (dW - A'P)

    dL/dA = r (c V)' - P W' + A diag(k) + 1 h' = (r dW' - (r P' + P r') A) S^-2 + A diag(k) + 1 h'

where k and h are those of ``system.py``. Every process that shares the rows has all of A, T and dZ, and keeps its own
rows of the gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.ridge.factor import Factor
from ts_lightning.ridge.gradients import add_product, sum_gradients
from ts_lightning.ridge.kept import DualMap
from ts_lightning.ridge.precision import cast
from ts_lightning.ridge.system import RidgeSolver


class DualApply(torch.autograd.Function):
    """(A, T) -> (W, A W); W is laid out as its transpose, (m, d), which is how layers hold weights."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, solver: RidgeSolver) -> tuple[Tensor, Tensor]:
        """W (..., d, m) and A W (..., N, m)."""
        rows = solver.rows(a.shape[-2])
        whole, wanted = rows.gather(a, t)
        factor = solver.factor(a, ctx.needs_input_grad[0], lambda: solver.dual(whole))
        r = factor.solve(wanted)
        w = cast(factor.unscale((r.mT @ cast(whole, r.dtype)).mT), t.dtype)
        solver.check(w, t)
        missed = factor.c.unsqueeze(-1) * r[..., rows.own, :]
        if solver.observer is not None:
            solver.observer([factor], t, lambda: missed)
        if solver.keep is not None:
            solver.keep(DualMap(whole, factor.cholesky, factor.measured.s2, rows.own))
        ctx.solver, ctx.factor, ctx.rows, ctx.output = solver, factor, rows, t.dtype
        ctx.save_for_backward(whole, r, w)
        ctx.set_materialize_grads(False)
        # in half precision, what the rounded weights give
        return w, a @ cast(w, a.dtype) if a.dtype.itemsize < 4 else cast(t - missed, a.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients on A and T."""
        if dw is None and dz is None:
            return None, None, None
        whole, r, w = ctx.saved_tensors
        factor: Factor = ctx.factor
        a, c, own = cast(whole, r.dtype), factor.c.unsqueeze(-1), ctx.rows.own
        right = r.new_zeros(())
        if dw is not None:
            dw = factor.unscale(sum_gradients(cast(dw, r.dtype), ctx.rows, ctx.solver))
            right = a @ dw
        if dz is not None:
            (dz,) = ctx.rows.gather(cast(dz, r.dtype))
            right = right - c * dz
        p = factor.solve(right)
        dt = p if dz is None else p + dz
        da = None
        if ctx.needs_input_grad[0]:
            if factor.measured.s2 is None and r.shape[-2] <= 2 * r.shape[-1]:
                cvw = factor.c * (dt * r).sum((-2, -1)).unsqueeze(-1)  # its sum is all that is needed
                mixed = add_product(r[..., own, :] @ p.mT, p[..., own, :], r.mT)
                da = -mixed @ a if dw is None else add_product(r[..., own, :] @ dw.mT, -mixed, a)
            else:
                cv = -factor.unscale((p.mT @ a).mT)
                cv = cv if dw is None else cv.add_(dw)
                cvw = (cv * w).sum(-1)
                da = add_product(r[..., own, :] @ cv.mT, -p[..., own, :], cast(w, r.dtype).mT)
            da = cast(factor.measured.add_gradient(da, a[..., own, :], cvw), whole.dtype)
        return da, cast(dt[..., own, :], ctx.output), None
