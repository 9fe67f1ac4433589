"""The linear map from targets to weights that a solve leaves behind: W = P T with P = (A'A + R)^-1 A', A and R kept.

Shapes as in ``system.py``: A (..., N, d), T (..., N, m), W (..., d, m). The map is held in one of two forms:

- explicit: P' (..., N, d), as large as A; one product;
- factored: A, as a matrix or as an operator, and the Cholesky factor of A'A + R: W = M^-1 (A'T).

In the dual form P = S^-2 A' (A S^-2 A' + c I)^-1, which has fewer rows than columns, is always made explicit. Where
processes share the rows, each has the columns of P that belong to its rows, and W is the sum of what their maps give.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ts_lightning.ridge.cholesky import Cholesky
from ts_lightning.ridge.precision import cast
from ts_lightning.ridge.system import Factor

_SMALL = 2**17  # numbers in P, up to which calls cost more than what they compute


class Inputs(Protocol):
    """A, as far as a kept map needs it."""

    def adjoint(self, t: Tensor) -> Tensor:
        """A'T (..., d, m)."""


class Matrix:
    """A as a matrix (..., N, d)."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # without what autograd holds of the layers before

    def adjoint(self, t: Tensor) -> Tensor:
        """A'T."""
        return cast(self.tensor, t.dtype).mT @ t


class KeptMap:
    """The map of one system.

    Args:
        transposed: P' (..., N, d), of this process's rows; None where the map is factored.
        inputs: A, where the map is factored.
        cholesky: the factor of A'A + R, the same.
    """

    def __init__(
        self, transposed: Tensor | None, inputs: Inputs | None = None, cholesky: Cholesky | None = None
    ) -> None:
        self.transposed = transposed
        self._inputs, self._cholesky = inputs, cholesky
        self._applied: Tensor | None = None

    @classmethod
    def primal(cls, inputs: Inputs, factor: Factor) -> KeptMap:
        """The map of a primal solve."""
        return cls(None, inputs, factor.cholesky)

    @classmethod
    def dual(cls, a: Tensor, factor: Factor, own: slice) -> KeptMap:
        """The map of a dual solve of all processes' rows ``a``, of which this process has its ``own``."""
        whole = factor.solve(a)
        s2 = factor.measured.s2
        whole = whole if s2 is None else whole / s2.unsqueeze(-2)
        return cls(whole[..., own, :])

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the map is held and applied in."""
        if self._cholesky is not None:
            return self._cholesky.dtype
        assert self.transposed is not None
        return self.transposed.dtype

    def settle(self, outputs: int, times: int) -> None:
        """Choose the form for a number of applications to targets with so many columns.

        The explicit form costs N d^2 multiplications, and saves d^2 m in every application.
        """
        if self._cholesky is None or not isinstance(self._inputs, Matrix):
            return
        a = self._inputs.tensor
        if a.numel() <= _SMALL or a.shape[-2] <= outputs * times:
            self.transposed = self._cholesky.solve(a.mT).mT.contiguous()
            self._inputs = self._cholesky = None

    def apply(self, t: Tensor) -> Tensor:
        """W = P T, for T in the map's precision, until the next call; this process's share of it."""
        if self.transposed is not None:
            # laid out as its transpose, which is how layers hold weights, and in the same memory every time
            self._applied = torch.matmul(t.mT, self.transposed, out=self._applied)
            return self._applied.mT
        assert self._inputs is not None
        assert self._cholesky is not None
        return self._cholesky.solve(self._inputs.adjoint(t))
