"""Solves with the Cholesky factor of a positive definite matrix, which is kept for several of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ts_lightning.ridge.precision import cast

_NARROW = 256  # rows of M, up to which a triangular solve takes several times as long as a product of its size


class Cholesky:
    """M = L L', (..., d, d).

    Args:
        lower: L.

    Attributes:
        lower: L.
        dtype: the precision of the solves.
    """

    def __init__(self, lower: Tensor) -> None:
        self.lower = lower
        self.dtype = lower.dtype
        self._inverse: Tensor | None = None

    @classmethod
    def stacked(cls, factors: Sequence[Cholesky]) -> Cholesky:
        """One factor of several matrices (d, d); of a single one a view."""
        found = cls(stack([factor.lower for factor in factors]))
        inverses = [factor._inverse for factor in factors if factor._inverse is not None]
        if len(inverses) == len(factors):
            found._inverse = stack(inverses)
        return found

    def inverse(self) -> Tensor:
        """The inverse of L, (..., d, d)."""
        if self._inverse is None:
            identity = torch.eye(self.lower.shape[-1], dtype=self.dtype, device=self.lower.device)
            self._inverse = torch.linalg.solve_triangular(self.lower, identity.expand_as(self.lower), upper=False)
        return self._inverse

    def solve(self, b: Tensor) -> Tensor:
        """The inverse of M times ``b`` (..., d, m), laid out as its transpose, which is how layers hold weights.

        Where ``b`` is wide beside M, products with the inverse of L are up to four times as fast as solves with L, and
        their forward errors are as small (Du Croz and Higham, Stability of Methods for Matrix Inversion, IMA J. Numer.
        Anal. 12, 1992), which those of products with the inverse of M are not. The inverse serves the way back, too, so
        that for a small M a ``b`` of two thirds of its size is wide.
        """
        b = cast(b, self.dtype)
        d, m = self.lower.shape[-1], b.shape[-1]
        if 3 * m < 2 * d or (d > _NARROW and m < 2 * d):
            # as cholesky_solve, which copies L first
            half = torch.linalg.solve_triangular(self.lower, b, upper=False)
            whole: Tensor = torch.linalg.solve_triangular(self.lower.mT, half, upper=True)
            return whole
        inverse = self.inverse()
        return (b.mT @ inverse.mT @ inverse).mT


def stack(tensors: Sequence[Tensor | None]) -> Tensor:
    """One batch of tensors; of a single one a view."""
    every = [tensor for tensor in tensors if tensor is not None]
    return every[0].unsqueeze(0) if len(every) == 1 else torch.stack(every)
