"""The factor of one regularised system A'A + R = L L', and the measure of A that R is made of.

Shapes and symbols as in ``system.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ts_lightning.ridge.cholesky import Cholesky
from ts_lightning.ridge.scales import RidgeScale


@dataclass
class Measured:
    """What R is made of, for one A.

    Attributes:
        scale: how it was measured.
        u: the diagonal of R for a ridge of 1, (..., 1) or (..., d).
        squares: the sums of squares of A's columns, (..., d).
        means: of A's columns, (..., d).
        rows: the number of rows of A.
    """

    scale: RidgeScale
    u: Tensor
    squares: Tensor
    means: Tensor
    rows: int

    def __post_init__(self) -> None:
        """S^2, (..., d); None for the identity."""
        self.s2 = None if self.u.shape[-1] == 1 else self.u

    def c(self, ridge: float) -> Tensor:
        """The number c for a ridge constant, (..., 1)."""
        return ridge * self.u if self.s2 is None else torch.full_like(self.u[..., :1], ridge)

    def gradient(self, cvw: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """How R depends on A: -k / 2 and -N h for the k and h of dL/dA += A diag(k) + 1 h'; None for zero.

        With dL/dR_j = -(V * W)_j summed over outputs, these are the gradients on the squares and means for -dL/du.

        Args:
            cvw: c (V * W) summed over outputs, (..., d); or over inputs too, (..., 1), where R is the same for all.

        Returns:
            Both, (..., d) or broadcast to it.
        """
        du = cvw.sum(-1, keepdim=True) / self.u if self.s2 is None else cvw
        return self.scale.gradient(du, self.u, self.squares, self.means, self.rows)


def unscaled(b: Tensor, s2: Tensor | None) -> Tensor:
    """S^-2 B for B (..., d, m); None is the identity."""
    return b if s2 is None else b / s2.unsqueeze(-1)


@dataclass
class Factor:
    """The Cholesky factor of one regularised system, and what its backward pass needs beside it."""

    cholesky: Cholesky
    c: Tensor  # (..., 1)
    measured: Measured
    dual: bool

    def solve(self, b: Tensor) -> Tensor:
        """The regularised system's inverse times ``b``, in the factor's precision."""
        return self.cholesky.solve(b)

    def diagonal(self) -> Tensor:
        """The diagonal of R, (..., d), of the primal form."""
        s2 = self.measured.s2
        return self.c.expand_as(self.measured.means) if s2 is None else self.c * s2

    def unscale(self, b: Tensor) -> Tensor:
        """S^-2 ``b`` for ``b`` (..., d, m)."""
        return unscaled(b, self.measured.s2)


#: function that every solve calls with the factors of its systems, T, and a function that returns T - A W, both at
#: this process's rows
Observer = Callable[[Sequence[Factor], Tensor, Callable[[], Tensor]], None]
