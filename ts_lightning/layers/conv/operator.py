"""The patch matrix A of a convolution as an operator on all rows, and the solve with it: A is never built.

A'T is the convolution's weight gradient at (x, T), A V a convolution of x with V, the A-gradient a transposed
convolution, and A'A comes from :meth:`Geometry.moments`. Inputs are (N, in, *space), padded; T is (N, out, *space).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.layers.conv.patches import Geometry
from ts_lightning.ridge.gradients import sum_gradients
from ts_lightning.ridge.kept import PrimalMap
from ts_lightning.ridge.moments import sum_moments
from ts_lightning.ridge.system import RidgeSolver


class ConvSolve(torch.autograd.Function):
    """(x, T) -> (weight, bias, Z) over all rows, with A only ever as an operator."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, t: Tensor, geometry: Geometry, solver: RidgeSolver, bias: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Weight, bias or None, and what the layer produces with them."""
        rows = solver.rows(t.shape[0] * t.shape[2:].numel())
        products: dict[torch.dtype, Tensor] = {}

        def moments(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
            gram, sums = geometry.moments(x, bias, dtype)
            like = x.new_empty(t.shape[1], x.shape[1] // geometry.groups, *geometry.kernel, dtype=dtype)
            products[dtype] = _adjoint(geometry, x.to(dtype), t.to(dtype), like, bias)
            sum_moments(rows, gram, sums, products[dtype])
            return gram, sums

        factor = solver.primal(moments, rows.total, x.dtype)
        dtype = factor.cholesky.dtype
        w = factor.solve(products[dtype])
        solver.check(w, t)
        weight, b = geometry.to_weight(w.to(t.dtype), bias)
        weight = weight.contiguous()
        z = geometry.convolve(x, weight.to(x.dtype), None if b is None else b.to(x.dtype))
        ctx.geometry, ctx.solver, ctx.factor, ctx.rows, ctx.bias = geometry, solver, factor, rows, bias
        residual = t - z  # and not Z, which the next layer may change in place
        if solver.observer is not None:
            solver.observer([factor], t, lambda: residual)
        if solver.keep is not None:
            solver.keep(PrimalMap(Convolved(x, geometry, bias), factor.cholesky))
        ctx.save_for_backward(x, weight, b, residual)
        ctx.set_materialize_grads(False)
        return weight, b, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dweight: Tensor | None, dbias: Tensor | None, dz: Tensor | None) -> Any:
        """Gradients on x and T."""
        x, weight, b, residual = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        factor = ctx.factor
        dtype = factor.cholesky.dtype
        if dweight is None and dbias is None and dz is None:
            return (None,) * 5
        xs, ws = x.to(dtype), weight.to(dtype)
        g = torch.zeros_like(geometry.to_matrix(ws, None if b is None else b.to(dtype)))
        if dweight is not None or dbias is not None:
            dweight = torch.zeros_like(weight) if dweight is None else dweight
            dbias = None if b is None else torch.zeros_like(b) if dbias is None else dbias
            g += geometry.to_matrix(dweight, dbias)
        if dz is not None:
            g += _adjoint(geometry, xs, dz.to(dtype), ws, ctx.bias)
        g = sum_gradients(g, ctx.rows, ctx.solver, inside=dz is not None)
        v = factor.solve(g)
        vw, vb = geometry.to_weight(v, ctx.bias)
        vw = vw.contiguous()
        av = geometry.convolve(xs, vw, vb)
        dx = None
        if ctx.needs_input_grad[0]:
            passed = -av if dz is None else dz.to(dtype) - av
            dx = geometry.backward(residual.to(dtype), xs, vw, geometry.groups, [True, False])[0]
            dx += geometry.backward(passed, xs, ws, geometry.groups, [True, False])[0]
            w = geometry.to_matrix(ws, None if b is None else b.to(dtype))
            gain, offset = factor.measured.gradient(factor.c * (v * w).sum(-1))
            inputs = w.shape[1] - ctx.bias
            if gain is not None:
                dx.addcmul_(xs, geometry.spread(gain.expand(*w.shape[:2])[:, :inputs], x), value=-2)
            if offset is not None:
                offset = geometry.spread(offset.expand(*w.shape[:2])[:, :inputs], x)
                dx.sub_(offset, alpha=1 / factor.measured.rows)
            dx = dx.to(x.dtype)
        return dx, av.to(residual.dtype), None, None, None


class Convolved:
    """A as an operator on all rows, for a padded input (N, in, *space) and targets (N, out, *space)."""

    def __init__(self, tensor: Tensor, geometry: Geometry, bias: bool) -> None:
        self.tensor, self._geometry, self._bias = tensor.detach(), geometry, bias

    def adjoint(self, t: Tensor) -> Tensor:
        """A'T (groups, d, out / groups)."""
        x, geometry = self.tensor.to(t.dtype), self._geometry
        like = x.new_empty(t.shape[1], x.shape[1] // geometry.groups, *geometry.kernel)
        return _adjoint(geometry, x, t, like, self._bias)


def _adjoint(geometry: Geometry, x: Tensor, t: Tensor, like: Tensor, bias: bool) -> Tensor:
    """A'T (groups, d, out / groups) for T (N, out, *space); ``like`` has the weight's shape."""
    weight = geometry.backward(t, x, like, geometry.groups, [False, True])[1]
    return geometry.to_matrix(weight, t.sum((0, *range(2, t.dim()))) if bias else None)
