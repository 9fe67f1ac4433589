"""The ridge system A'A + R of W = (A'A + R)^-1 A'T, with R diagonal, and its factor, which other files differentiate.

Shapes: ``A`` (..., N, d), one row per place where a layer is applied and one column per input (a column of ones among
them where the layer has a bias); ``T`` (..., N, m), the targets; ``W`` (..., d, m). Leading dimensions are separate
problems (the groups of a convolution).

R = c S^2 with a number c and a diagonal S^2, which is how one piece of code serves the four scales, where B is A with
every column's mean taken off:

=========== ============================ =======================
scale       c                            S^2
=========== ============================ =======================
"absolute"  ridge                        1
"variance"  ridge trace(B'B) / N         1
"mean"      ridge trace(A'A) / d         1
"feature"   ridge                        diag A'A
=========== ============================ =======================

("variance" takes trace(B'B) + 1e-6 trace(A'A), and "feature" adds 1e-6 of the diagonal's mean, so that inputs that
never change have a ridge too.)

trace(B'B) / N is the inputs' total variance. Beside the mean eigenvalue of B'B that ridge is ridge d / N: weak where
many rows determine few weights, strong where they hardly do. It is the one of the Bayes estimate for weights drawn
independently when the targets hold ``ridge`` times as much noise as signal.

Primal (N >= d): M = A'A + R is factorised. Dual (N < d): K = A S^-2 A' + c I is, and d x d is never built. The Cholesky
factor of the forward pass serves the backward pass (Fairbank et al. 2022, section 3.2 and appendix A): with G = dL/dW,

    V = M^-1 G        dL/dT = A V        dL/dA = (T - A W) V' - (A V) W' + A diag(k) + 1 h'

where k and h carry the dependence of R on A. ``primal.py`` has them; ``dual.py`` has a
form of the same that divides by nothing and has few products of W's size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ts_lightning.config import RidgeScale, SolveDtype
from ts_lightning.errors import TargetSpaceError
from ts_lightning.ridge.processes import Rows

_FLOOR = 1e-6  # of diag(A'A)'s trace or mean: what inputs that never change still get
_BLOCK = 128  # columns; a Gram matrix wider than two blocks is computed by its lower blocks only
_SENT = 64  # rows; the same for what is sent of one


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


def matrix_moments(a: Tensor) -> tuple[Tensor, Tensor]:
    """A'A as :func:`gram_matrix` has it, and the sums of A's columns (..., d)."""
    return gram_matrix(a), a.sum(-2)


def sum_moments(rows: Rows, gram: Tensor, *others: Tensor) -> None:
    """Add up a Gram matrix (its lower triangle) and other sums over the processes that hold rows, in place."""
    if rows.ranks == 1:
        return
    starts = range(0, gram.shape[-1], _SENT)
    rows.sum(*(gram[..., start : start + _SENT, : start + _SENT] for start in starts), *others)


#: function of a precision that returns A'A (..., d, d), lower triangle at least and free to be written to, and the sums
#: of A's columns (..., d)
Moments = Callable[[torch.dtype], tuple[Tensor, Tensor]]


@dataclass
class Scale:
    """What R is made of, for one A."""

    unit: Tensor  # (..., 1), c for a ridge of 1
    share: float  # d unit / d trace: 1 / d, 1 / N, or 0
    s2: Tensor | None  # (..., d), None for ones
    means: Tensor  # (..., d), of A's columns


@dataclass
class Factor:
    """The Cholesky factor of one regularised system, and what its backward pass needs beside it."""

    cholesky: Tensor
    c: Tensor  # (..., 1)
    scale: Scale
    dual: bool

    def solve(self, b: Tensor) -> Tensor:
        """The regularised system's inverse times ``b``, in the factor's precision."""
        # as cholesky_solve, which copies the factor first
        half = torch.linalg.solve_triangular(self.cholesky, b.to(self.cholesky.dtype), upper=False)
        whole: Tensor = torch.linalg.solve_triangular(self.cholesky.mT, half, upper=True)
        return whole

    def diagonal(self) -> Tensor:
        """The diagonal of R, (..., d), of the primal form."""
        return self.c.expand_as(self.scale.means) if self.scale.s2 is None else self.c * self.scale.s2

    def unscale(self, b: Tensor) -> Tensor:
        """S^-2 ``b`` for ``b`` (..., d, m)."""
        return b if self.scale.s2 is None else b / self.scale.s2.unsqueeze(-1)


#: function that is told of a solve: its systems' factors, T, and a function that returns T - A W, both at this
#: process's rows
Observer = Callable[[Sequence[Factor], Tensor, Callable[[], Tensor]], None]


def _cholesky(matrix: Tensor, diagonal: Tensor, c: Tensor, s2: Tensor | None) -> tuple[Tensor, Tensor]:
    """The Cholesky factor of ``matrix`` with c S^2 added to its ``diagonal``, which is written over."""
    torch.add(diagonal, c if s2 is None else c * s2, out=matrix.diagonal(dim1=-2, dim2=-1))
    cholesky, info = torch.linalg.cholesky_ex(matrix)
    return cholesky, info


class RidgeSolver:
    """One layer's ridge: its size and scale, in what precision it is solved, and under which name it complains.

    Args:
        ridge: the ridge constant, above 0.
        scale: the unit of ``ridge``, see the table above.
        dtype: "auto" computes in at least float32, and in float64 where float32 cannot hold the Gram matrix.
        label: how errors and warnings name this solve.

    Attributes:
        shared: how the rows of A are spread over processes; None where all of them are here.
        gradient_is_replicated: whether dL/dW comes from the training loss alone, whose gradient is the same in all
            processes, so that it needs no sum over them.
        observer: told of every solve; None where none is observed.
        deferred_checks: for CUDA graphs, which cannot branch on values: solves append whether each check passed, and
            go on; None where a solve acts on its checks at once.
    """

    def __init__(self, ridge: float, scale: RidgeScale, dtype: SolveDtype = "auto", label: str = "ridge_solve") -> None:
        self.ridge = ridge
        self.scale: RidgeScale = scale
        self.dtype: SolveDtype = dtype
        self.label = label
        self.shared: Rows | None = None
        self.gradient_is_replicated = False
        self.observer: Observer | None = None
        self.deferred_checks: list[Tensor] | None = None
        self._warned_of_larger_ridge = False

    def rows(self, count: int) -> Rows:
        """How the rows of A, ``count`` of which are here, are spread over processes."""
        return Rows(count) if self.shared is None else self.shared

    def precisions(self, given: torch.dtype) -> list[torch.dtype]:
        """The precisions to try, first to last, for input of type ``given``."""
        if self.dtype != "auto":
            return [getattr(torch, self.dtype)]
        return [torch.float64] if given == torch.float64 else [torch.float32, torch.float64]

    def _measure(self, diagonal: Tensor, means: Tensor, rows: int) -> Scale:
        """R's scale for diag(A'A) and the means of A's columns, each (..., d)."""
        trace = diagonal.sum(-1, keepdim=True).clamp_min(torch.finfo(diagonal.dtype).tiny ** 0.5)
        d = diagonal.shape[-1]
        if self.scale == "absolute":
            return Scale(torch.ones_like(trace), 0.0, None, means)
        if self.scale == "feature":
            return Scale(torch.ones_like(trace), 0.0, diagonal + _FLOOR * trace / d, means)
        if self.scale == "mean":
            return Scale(trace / d, 1 / d, None, means)
        centred = (trace - rows * means.square().sum(-1, keepdim=True)).clamp_min(0)
        return Scale((centred + _FLOOR * trace) / rows, 1 / rows, None, means)

    def primal(self, moments: Moments, rows: int, given: torch.dtype) -> Factor:
        """Factorise A'A + R.

        Args:
            moments: A'A and the sums of A's columns, see :data:`Moments`.
            rows: N.
            given: the precision of A.

        Raises:
            TargetSpaceError: A'A is not finite in any precision.
        """

        def system(dtype: torch.dtype) -> tuple[Tensor, Scale]:
            gram, sums = moments(dtype)
            return gram, self._measure(gram.diagonal(dim1=-2, dim2=-1), sums / rows, rows)

        return self._factorise(system, given, dual=False)

    def dual(self, a: Tensor) -> Factor:
        """Factorise A S^-2 A' + c I for ``a`` (..., N, d)."""

        def system(dtype: torch.dtype) -> tuple[Tensor, Scale]:
            x = a.to(dtype)
            scale = self._measure(x.square().sum(-2), x.mean(-2), x.shape[-2])
            kernel = gram_matrix(x.mT) if scale.s2 is None else (x / scale.s2.unsqueeze(-2)) @ x.mT
            return kernel, scale

        return self._factorise(system, a.dtype, dual=True)

    def _factorise(
        self, system: Callable[[torch.dtype], tuple[Tensor, Scale]], given: torch.dtype, *, dual: bool
    ) -> Factor:
        """Try each precision; in the last one, raise the ridge until Cholesky succeeds."""
        for dtype in self.precisions(given):
            matrix, scale = system(dtype)
            diagonal = matrix.diagonal(dim1=-2, dim2=-1).clone()
            s2 = None if dual else scale.s2
            trace = (diagonal if s2 is None else diagonal / s2).sum(-1, keepdim=True)
            c = self.ridge * scale.unit
            cholesky, info = _cholesky(matrix, diagonal, c, s2)
            # What rounding can do to the smallest eigenvalue, about eps * trace, must stay well below the ridge.
            held = ((10 * torch.finfo(dtype).eps * trace <= c) & (trace < torch.inf)).all() & (info == 0).all()
            if self.deferred_checks is not None:
                alone = len(self.precisions(given)) == 1  # so that there is nothing else to try
                self.deferred_checks.append((info == 0).all() & cholesky.isfinite().all() if alone else held)
                return Factor(cholesky, c, scale, dual)
            if held:
                return Factor(cholesky, c, scale, dual)
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
            c = ridge * scale.unit
            cholesky, info = _cholesky(matrix, diagonal, c, s2)
        if ridge != self.ridge and not self._warned_of_larger_ridge:
            self._warned_of_larger_ridge = True
            warnings.warn(
                f"{self.label}: A'A + R cannot be factorised in {dtype} with ridge {self.ridge:g}; {ridge:g} is used "
                f"where that happens. Choose a larger ridge, or ridge_scale='variance'.",
                stacklevel=2,
            )
        return Factor(cholesky, c, scale, dual)

    def check(self, w: Tensor, t: Tensor) -> None:
        """Raise TargetSpaceError if the solution ``w`` is not finite, as it is when the targets ``t`` are not."""
        if self.deferred_checks is not None:
            self.deferred_checks.append(w.sum().isfinite())
        elif not math.isfinite(w.sum().item()) and not w.isfinite().all():
            what = "its targets hold" if not t.isfinite().all() else "the solved weights hold"
            raise TargetSpaceError(
                f"{self.label}: {what} a NaN or an infinity. Expected finite numbers: lower the learning rate, clip "
                f"the gradients, or look for a NaN in the loss."
            )

    def scale_gradient(self, factor: Factor, cvw: Tensor) -> tuple[Tensor, Tensor | None] | None:
        """How R depends on A: the k and h of dL/dA += A diag(k) + 1 h', each (..., d); None where it does not.

        Args:
            factor: the system's factor.
            cvw: c (V * W) summed over outputs, (..., d).
        """
        if self.scale == "absolute":
            return None
        if self.scale == "feature":
            return -2 * (cvw + _FLOOR * cvw.mean(-1, keepdim=True)), None
        k = (-2 * factor.scale.share * cvw.sum(-1, keepdim=True) / factor.scale.unit).expand_as(cvw)
        return (k, None) if self.scale == "mean" else ((1 + _FLOOR) * k, -k * factor.scale.means)
