"""The differentiable ridge solve, W = (A'A + R)^-1 A'T, with R diagonal.

Shapes: ``A`` (..., N, d), one row per place where a layer is applied and one column per input (a column of ones among
them where the layer has a bias); ``T`` (..., N, m), the targets; ``W`` (..., d, m). Leading dimensions are separate
problems (the groups of a convolution).

R = c S^2 with a number c and a diagonal S^2, which is how one piece of code serves the three scales:

=========== ===================== ============================
scale       c                     S^2
=========== ===================== ============================
"absolute"  ridge                 1
"mean"      ridge mean(diag A'A)  1
"feature"   ridge                 diag A'A (+ tiny mean)
=========== ===================== ============================

Primal (N >= d): M = A'A + R is factorised. Dual (N < d): K = A S^-2 A' + c I is, and d x d is never built. The Cholesky
factor of the forward pass serves the backward pass (Fairbank et al. 2022, section 3.2 and appendix A): with G = dL/dW,

    V = M^-1 G        dL/dT = A V        dL/dA = (T - A W) V' - (A V) W' + A diag(k)

where k carries the dependence of R on A ("mean", "feature"). In the dual T - A W = c K^-1 T and c V = S^-2 (G - A'A V),
so nothing is divided by c.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ts_lightning.config import RidgeScale, SolveDtype, check_choice, check_positive
from ts_lightning.errors import TargetSpaceError

_DEAD_FEATURE = 1e-6  # "feature": the share of the mean that a feature which is always zero gets
_BLOCK = 192  # columns; a Gram matrix wider than two blocks is computed by its lower blocks only


def gram_matrix(a: Tensor) -> Tensor:
    """A'A for ``a`` (..., N, d); of a large one only the lower triangle is meaningful, which is all Cholesky reads."""
    d = a.shape[-1]
    if a.dim() > 2 or d <= 2 * _BLOCK:
        return a.mT @ a
    out = a.new_empty(d, d)
    for start in range(0, d, _BLOCK):
        stop = min(start + _BLOCK, d)
        torch.mm(a[:, start:stop].mT, a[:, :stop], out=out[start:stop, :stop])
    return out


@dataclass
class Factor:
    """The Cholesky factor of one regularised system, and what its backward pass needs beside it."""

    cholesky: Tensor
    c: Tensor  # (..., 1)
    s2: Tensor | None  # (..., d), None for ones
    trace: Tensor  # (..., 1), of A'A
    ridge: float
    dual: bool

    def solve(self, b: Tensor) -> Tensor:
        """The regularised system's inverse times ``b``, in the factor's precision."""
        return torch.cholesky_solve(b.to(self.cholesky.dtype), self.cholesky)

    def unscale(self, b: Tensor) -> Tensor:
        """S^-2 ``b`` for ``b`` (..., d, m)."""
        return b if self.s2 is None else b / self.s2.unsqueeze(-1)


class RidgeSolver:
    """One layer's ridge: its size and scale, in what precision it is solved, and under which name it complains.

    Args:
        ridge: the ridge constant, above 0.
        scale: the unit of ``ridge``, see the table above.
        dtype: "auto" computes in at least float32, and in float64 where float32 cannot hold the Gram matrix.
        label: how errors and warnings name this solve.
    """

    def __init__(self, ridge: float, scale: RidgeScale, dtype: SolveDtype = "auto", label: str = "ridge_solve") -> None:
        self.ridge = ridge
        self.scale: RidgeScale = scale
        self.dtype: SolveDtype = dtype
        self.label = label
        self._said_larger = False

    def precisions(self, given: torch.dtype) -> list[torch.dtype]:
        """The precisions to try, first to last, for input of type ``given``."""
        if self.dtype != "auto":
            return [getattr(torch, self.dtype)]
        return [torch.float64] if given == torch.float64 else [torch.float32, torch.float64]

    def _scale(self, diagonal: Tensor, ridge: float) -> tuple[Tensor, Tensor | None]:
        mean = diagonal.mean(-1, keepdim=True).clamp_min(torch.finfo(diagonal.dtype).tiny ** 0.5)
        if self.scale == "absolute":
            return torch.full_like(mean, ridge), None
        if self.scale == "mean":
            return ridge * mean, None
        return torch.full_like(mean, ridge), diagonal + _DEAD_FEATURE * mean

    def primal(self, gram: Any, given: torch.dtype) -> Factor:
        """Factorise A'A + R.

        Args:
            gram: function of a precision that returns A'A (..., d, d), lower triangle at least.
            given: the precision of A.

        Raises:
            TargetSpaceError: A'A is not finite in any precision.
        """

        def build(dtype: torch.dtype) -> tuple[Tensor, Tensor, Any]:
            m = gram(dtype)
            diagonal = m.diagonal(dim1=-2, dim2=-1).clone()

            def regularised(ridge: float) -> tuple[Tensor, Tensor, Tensor | None]:
                c, s2 = self._scale(diagonal, ridge)
                shifted = m.clone() if ridge != self.ridge else m
                torch.add(diagonal, c if s2 is None else c * s2, out=shifted.diagonal(dim1=-2, dim2=-1))
                return shifted, c, s2

            trace = diagonal.sum(-1, keepdim=True)
            s2 = self._scale(diagonal, self.ridge)[1]
            scaled = trace if s2 is None else (diagonal / s2).sum(-1, keepdim=True)
            return trace, scaled, regularised

        return self._factorise(build, given, dual=False)

    def dual(self, a: Tensor) -> Factor:
        """Factorise A S^-2 A' + c I for ``a`` (..., N, d)."""

        def build(dtype: torch.dtype) -> tuple[Tensor, Tensor, Any]:
            x = a.to(dtype)
            diagonal = x.square().sum(-2)
            _, s2 = self._scale(diagonal, self.ridge)
            kernel = (x if s2 is None else x / s2.unsqueeze(-2)) @ x.mT
            k_diagonal = kernel.diagonal(dim1=-2, dim2=-1).clone()

            def regularised(ridge: float) -> tuple[Tensor, Tensor, Tensor | None]:
                c, _ = self._scale(diagonal, ridge)
                shifted = kernel.clone() if ridge != self.ridge else kernel
                torch.add(k_diagonal, c, out=shifted.diagonal(dim1=-2, dim2=-1))
                return shifted, c, s2

            return diagonal.sum(-1, keepdim=True), k_diagonal.sum(-1, keepdim=True), regularised

        return self._factorise(build, a.dtype, dual=True)

    def _factorise(self, build: Any, given: torch.dtype, dual: bool) -> Factor:
        """Try each precision; in the last one, raise the ridge until Cholesky succeeds."""
        precisions = self.precisions(given)
        for dtype in precisions:
            trace, scaled, regularised = build(dtype)
            m, c, s2 = regularised(self.ridge)
            cholesky, info = torch.linalg.cholesky_ex(m)
            # What rounding can do to the smallest eigenvalue, about eps * trace, must stay below the ridge.
            held = (torch.finfo(dtype).eps * scaled <= c).all() & (info == 0).all() & trace.isfinite().all()
            if held:
                return Factor(cholesky, c, s2, trace, self.ridge, dual)
        if not trace.isfinite().all():
            raise TargetSpaceError(
                f"{self.label}: the layer's inputs on the reference batch hold a NaN or an infinity, or values too "
                f"large to square in {dtype}. Expected finite numbers: check the reference batch, the layers "
                f"before this one, and the learning rate."
            )
        ridge = self.ridge
        while not (info == 0).all() or not cholesky.isfinite().all():
            ridge *= 10
            if ridge > 1e30:
                raise TargetSpaceError(f"{self.label}: A'A + R is not positive definite for any ridge up to {ridge:g}.")
            m, c, s2 = regularised(ridge)
            cholesky, info = torch.linalg.cholesky_ex(m)
        if ridge != self.ridge and not self._said_larger:
            self._said_larger = True
            warnings.warn(
                f"{self.label}: A'A + R cannot be factorised in {dtype} with ridge {self.ridge:g}; {ridge:g} is used "
                f"where that happens. Choose a larger ridge, or ridge_scale='mean'.",
                stacklevel=2,
            )
        return Factor(cholesky, c, s2, trace, ridge, dual)

    def check(self, w: Tensor, t: Tensor) -> None:
        """Raise TargetSpaceError if the solution ``w`` is not finite, as it is when the targets ``t`` are not."""
        if not w.sum().isfinite() and not w.isfinite().all():
            what = "its targets hold" if not t.isfinite().all() else "the solved weights hold"
            raise TargetSpaceError(
                f"{self.label}: {what} a NaN or an infinity. Expected finite numbers: lower the learning rate, clip "
                f"the gradients, or look for a NaN in the loss."
            )

    def column_gain(self, factor: Factor, cvw: Tensor) -> Tensor | None:
        """The k of dL/dA += A diag(k), from ``cvw`` (..., d), the sum over outputs of c (V * W)."""
        if self.scale == "absolute":
            return None
        if self.scale == "mean":
            gain = -2 * cvw.sum(-1, keepdim=True) / factor.trace.clamp_min(torch.finfo(cvw.dtype).tiny)
            return gain.expand_as(cvw)
        return -2 * (cvw + _DEAD_FEATURE * cvw.mean(-1, keepdim=True))


class _SolveApply(torch.autograd.Function):
    """(A, T) -> (W, A W): solve and apply in one operation, which share their backward (saves two passes over A)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, solver: RidgeSolver, apply: bool) -> tuple[Tensor, Tensor | None]:
        if a.shape[-2] < a.shape[-1]:
            factor = solver.dual(a)
            dtype = factor.cholesky.dtype
            kt = factor.solve(t)
            w = factor.unscale(a.mT.to(dtype) @ kt)
        else:
            factor = solver.primal(lambda dtype: gram_matrix(a.to(dtype)), a.dtype)
            dtype = factor.cholesky.dtype
            kt = None
            w = factor.solve(a.mT.to(dtype) @ t.to(dtype))
        solver.check(w, t)
        w = w.to(t.dtype)
        ctx.solver, ctx.factor, ctx.kt = solver, factor, kt
        ctx.save_for_backward(a, t, w)
        ctx.set_materialize_grads(False)
        return w, a @ w.to(a.dtype) if apply else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dw: Tensor | None, dz: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        a, t, w = ctx.saved_tensors
        factor: Factor = ctx.factor
        dtype = factor.cholesky.dtype
        at, ax, wx = a.mT.to(dtype), a.to(dtype), w.to(dtype)
        if dw is None and dz is None:
            return None, None, None, None
        g = dw.to(dtype) if dw is not None else torch.zeros_like(wx)
        if dz is not None:
            g = g + at @ dz.to(dtype)
        da = None
        if factor.dual:
            av = factor.solve(ax @ factor.unscale(g))
            if ctx.needs_input_grad[0]:
                left, right = ctx.kt, factor.unscale(g - at @ av)
                cvw = (right * wx).sum(-1)
        else:
            v = factor.solve(g)
            av = ax @ v
            if ctx.needs_input_grad[0]:
                left, right = t.to(dtype) - ax @ wx, v
                cvw = factor.c * (v * wx).sum(-1)
        if ctx.needs_input_grad[0]:
            passed = -av if dz is None else dz.to(dtype) - av
            da = left @ right.mT + passed @ wx.mT
            gain = ctx.solver.column_gain(factor, cvw)
            if gain is not None:
                da = da.addcmul_(ax, gain.unsqueeze(-2))
            da = da.to(a.dtype)
        return da, av.to(t.dtype), None, None


def solve_apply(a: Tensor, t: Tensor, solver: RidgeSolver) -> tuple[Tensor, Tensor]:
    """W and Z = A W, differentiable in A (..., N, d) and T (..., N, m)."""
    w, z = _SolveApply.apply(a, t, solver, True)  # type: ignore[no-untyped-call]
    return w, z


def solve(a: Tensor, t: Tensor, solver: RidgeSolver) -> Tensor:
    """W alone, differentiable in A (..., N, d) and T (..., N, m)."""
    w, _ = _SolveApply.apply(a, t, solver, False)  # type: ignore[no-untyped-call]
    return w  # type: ignore[no-any-return]


def ridge_solve(a: Tensor, t: Tensor, ridge: float, *, scale: RidgeScale = "absolute") -> Tensor:
    """Solve W = (A'A + R)^-1 A'T, differentiably; primal for N >= d and dual otherwise.

    Half-precision input is accumulated and factorised in float32; float64 is used where float32 cannot hold A'A.

    Args:
        a: inputs A, shape (..., N, d).
        t: targets T, shape (..., N, m).
        ridge: the ridge constant, above 0, in the unit that ``scale`` says.
        scale: "absolute": R = ridge I; "mean": R = ridge mean(diag A'A) I; "feature": R = ridge diag(A'A).

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
    if 0 in a.shape:
        raise ValueError(f"ridge_solve: found an empty A, {tuple(a.shape)}; expected at least one row and one column.")
    check_positive("ridge", ridge)
    check_choice("scale", scale, get_args(RidgeScale))
    return solve(a, t, RidgeSolver(ridge, scale))
