"""The ridge system A'A + R of W = (A'A + R)^-1 A'T, with R diagonal, and its factor, which other files differentiate.

Shapes: ``A`` (..., N, d), one row per place where a layer is applied and one column per input (a column of ones among
them where the layer has a bias); ``T`` (..., N, m), the targets; ``W`` (..., d, m). Leading dimensions are separate
problems (the groups of a convolution).

R = ridge diag(u), where u measures A (``scales.py``): one number c = ridge u for all inputs, or one for each. Both are
written R = c S^2, with a number c and a diagonal S^2 that is the identity in the former case.

Primal (N >= d): M = A'A + R is factorised. Dual (N < d): K = A S^-2 A' + c I is, and d x d is never built. The Cholesky
factor of the forward pass serves the backward pass (Fairbank et al. 2022, section 3.2 and appendix A): with G = dL/dW,

    V = M^-1 G        dL/dT = A V        dL/dA = (T - A W) V' - (A V) W' + A diag(k) + 1 h'

where k and h carry the dependence of R on A (:meth:`Measured.gradient`). ``primal.py`` computes these; ``dual.py`` has
a form of the same that divides by nothing and has few products of W's size.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from torch import Tensor

from ts_lightning.config import SolveDtype
from ts_lightning.errors import TargetSpaceError
from ts_lightning.ridge.cholesky import Cholesky
from ts_lightning.ridge.factor import Factor, Observer
from ts_lightning.ridge.measured import Measured, measure
from ts_lightning.ridge.moments import Moments, gram_matrix
from ts_lightning.ridge.precision import cast
from ts_lightning.ridge.processes import Rows
from ts_lightning.ridge.repeated import Repeated
from ts_lightning.ridge.scales import WithNoise, ridge_scale


def _cholesky(matrix: Tensor, diagonal: Tensor, c: Tensor | float, s2: Tensor | None) -> tuple[Tensor, Tensor]:
    """The Cholesky factor of ``matrix`` with c S^2 added to its ``diagonal``, which is written over."""
    torch.add(diagonal, c if s2 is None else c * s2, out=matrix.diagonal(dim1=-2, dim2=-1))
    cholesky, info = torch.linalg.cholesky_ex(matrix)
    return cholesky, info


def _held(trace: Tensor | float, c: Tensor | float, info: Tensor, dtype: torch.dtype) -> Tensor | bool:
    """Whether a precision holds the Gram matrix, (..., 1) its trace and c: rounding must stay well below the ridge.

    What rounding can do to the smallest eigenvalue is about eps * trace.
    """
    eps = 10 * torch.finfo(dtype).eps
    if isinstance(trace, Tensor) and trace.numel() == 1 and trace.device.type == "cpu":
        trace = trace.item()  # eight operations on a number take longer than reading it
    if isinstance(trace, Tensor):
        return ((eps * trace <= c) & (trace < torch.inf)).all() & (info == 0).all()
    return eps * trace <= float(c) and trace < math.inf and info.item() == 0


class RidgeSolver:
    """One layer's ridge: its size and scale, the precision of its solves, and the layer's name in errors.

    Args:
        ridge: the ridge constant, above 0.
        scale: the name of the unit of ``ridge``, see ``scales.py``.
        dtype: "auto" computes in at least float32, and in float64 where float32 cannot hold the Gram matrix.
        label: how errors and warnings name this solve.

    Attributes:
        shared: how the rows of A are spread over processes; None where all of them are here.
        gradient_is_replicated: whether dL/dW comes from the training loss alone, whose gradient is the same in all
            processes, so that it needs no sum over them.
        noise: the mean square of the noise that training has on the inputs, in units of their own mean square, (d,);
            None for none.
        observer: called at every solve; None for no call.
        keep: given the map from T to W of every solve, a :class:`~ts_lightning.ridge.kept.KeptMap` for each of its
            systems in order; None where none is kept.
        deferred_checks: for CUDA graphs, which cannot branch on values: solves append whether each check passed, and
            go on; None where a solve acts on its checks at once.
        repeated: the factor of inputs that stay the same from solve to solve.
    """

    def __init__(self, ridge: float, scale: str, dtype: SolveDtype = "auto", label: str = "ridge_solve") -> None:
        self.ridge = ridge
        self.scale = ridge_scale(scale)
        self.dtype: SolveDtype = dtype
        self.label = label
        self.shared: Rows | None = None
        self.gradient_is_replicated = False
        self.noise: Tensor | None = None
        self.observer: Observer | None = None
        self.keep: Callable[[Any], None] | None = None
        self.deferred_checks: list[Tensor] | None = None
        self.repeated = Repeated()
        self._warned_of_larger_ridge = False

    def rows(self, count: int) -> Rows:
        """How the rows of A, ``count`` of which are here, are spread over processes."""
        return Rows(count) if self.shared is None else self.shared

    def precisions(self, given: torch.dtype) -> list[torch.dtype]:
        """The precisions to try, first to last, for input of type ``given``."""
        if self.dtype != "auto":
            return [getattr(torch, self.dtype)]
        return [torch.float64] if given == torch.float64 else [torch.float32, torch.float64]

    def _measure(self, squares: Tensor, means: Tensor, rows: int) -> Measured:
        scale = self.scale
        if self.noise is not None:
            scale = WithNoise(scale, self.noise.to(squares.dtype) / self.ridge)
        return measure(scale, squares, means, rows)

    def of(self, columns: slice) -> RidgeSolver:
        """The solver of a system of these columns of A alone."""
        if self.noise is None:
            return self
        part = copy(self)
        part.noise = self.noise[columns]
        return part

    def factor(self, inputs: Tensor, shaped: bool, factorise: Callable[[], Factor]) -> Factor:
        """The factor of a solve, which is that of the last one where its inputs were the same.

        Args:
            inputs: A, or what A is made of.
            shaped: whether something that is trained has shaped them.
            factorise: makes the factor.
        """
        alone = self.shared is None and self.deferred_checks is None and self.noise is None
        if not alone:
            return factorise()
        return self.repeated.factor(inputs, shaped, self.ridge, factorise)

    def primal(self, moments: Moments, rows: int, given: torch.dtype) -> Factor:
        """Factorise A'A + R.

        Args:
            moments: A'A and the sums of A's columns, see :data:`Moments`.
            rows: N.
            given: the precision of A.

        Raises:
            TargetSpaceError: A'A is not finite in any precision.
        """

        def system(dtype: torch.dtype) -> tuple[Tensor, Tensor, Measured]:
            gram, sums = moments(dtype)
            squares = gram.diagonal(dim1=-2, dim2=-1).clone()
            return gram, squares, self._measure(squares, sums / rows, rows)

        return self._factorise(system, given, dual=False)

    def dual(self, a: Tensor) -> Factor:
        """Factorise A S^-2 A' + c I for ``a`` (..., N, d)."""

        def system(dtype: torch.dtype) -> tuple[Tensor, Tensor, Measured]:
            x = cast(a, dtype)
            measured = self._measure(x.square().sum(-2), x.mean(-2), x.shape[-2])
            s2 = measured.s2
            kernel = gram_matrix(x.mT) if s2 is None else (x / s2.unsqueeze(-2)) @ x.mT
            return kernel, kernel.diagonal(dim1=-2, dim2=-1).clone(), measured

        return self._factorise(system, a.dtype, dual=True)

    def _factorise(
        self, system: Callable[[torch.dtype], tuple[Tensor, Tensor, Measured]], given: torch.dtype, *, dual: bool
    ) -> Factor:
        """Try each precision; in the last one, raise the ridge until Cholesky succeeds.

        Args:
            system: function of a precision that returns the matrix without R, a copy of its diagonal, and R's measure.
            given: the precision of A.
            dual: whether the system is the dual one.
        """
        for dtype in self.precisions(given):
            matrix, diagonal, measured = system(dtype)
            s2 = None if dual else measured.s2
            trace, c = measured.trace(diagonal, dual=dual), measured.c(self.ridge)
            cholesky, info = _cholesky(matrix, diagonal, c, s2)
            if self.deferred_checks is not None:
                alone = len(self.precisions(given)) == 1  # so that there is nothing else to try
                passed = (info == 0).all() & cholesky.isfinite().all() if alone else _held(trace, c, info, dtype)
                self.deferred_checks.append(torch.as_tensor(passed))
                return Factor(Cholesky(cholesky), measured, self.ridge, dual)
            if _held(trace, c, info, dtype):
                return Factor(Cholesky(cholesky), measured, self.ridge, dual)
        if not torch.as_tensor(trace, dtype=torch.float64).isfinite().all():
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
            c = measured.c(ridge)
            cholesky, info = _cholesky(matrix, diagonal, c, s2)
        if ridge != self.ridge and not self._warned_of_larger_ridge:
            self._warned_of_larger_ridge = True
            warnings.warn(
                f"{self.label}: A'A + R cannot be factorised in {dtype} with ridge {self.ridge:g}; {ridge:g} is used "
                f"where that happens. Choose a larger ridge, or ridge_scale='variance'.",
                stacklevel=2,
            )
        return Factor(Cholesky(cholesky), measured, ridge, dual)

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
