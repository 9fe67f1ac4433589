"""The linear map from targets to weights that a solve leaves behind: W = P T with P = (A'A + R)^-1 A', A and R kept.

Shapes as in ``system.py``: A (..., N, d), T (..., N, m), W (..., d, m). The map is held in one of two forms:

- explicit: P' (..., N, d), as large as A; one product;
- factored: A, as a matrix or as an operator, and the Cholesky factor: W = M^-1 (A'T), or in the dual form
  W = S^-2 A' (K^-1 T), which is made from all rows.

Where processes share the rows, each has the columns of P that belong to its rows, and W is the sum of what their maps
give.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

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
        explicit: makes P' (..., N, d) of this process's rows; None where A is an operator.
        factored: applies P by the factor; None where that needs other processes' targets.
        pays: the columns of T, over all applications, from which on making P' takes less time than it saves.
        dtype: the precision that the map is held and applied in.

    Attributes:
        transposed: P'; None where the map is factored, as it is at first.
        dtype: see above.
    """

    def __init__(
        self,
        explicit: Callable[[], Tensor] | None,
        factored: Callable[[Tensor], Tensor] | None,
        pays: int,
        dtype: torch.dtype,
    ) -> None:
        self.transposed: Tensor | None = None
        self.dtype = dtype
        self._explicit, self._factored, self._pays = explicit, factored, pays
        self._applied: Tensor | None = None

    @classmethod
    def primal(cls, inputs: Inputs, factor: Factor) -> KeptMap:
        """The map of a primal solve; P' takes N d^2 multiplications, and saves d^2 for each column of T."""
        cholesky = factor.cholesky

        def factored(t: Tensor) -> Tensor:
            return cholesky.solve(inputs.adjoint(t))

        if not isinstance(inputs, Matrix):
            return cls(None, factored, 0, cholesky.dtype)
        a = inputs.tensor
        return cls(lambda: cholesky.solve(a.mT).mT.contiguous(), factored, _pays(a, a.shape[-2]), cholesky.dtype)

    @classmethod
    def dual(cls, a: Tensor, factor: Factor, own: slice) -> KeptMap:
        """The map of a dual solve of all processes' rows ``a``, of which this process has its ``own``.

        P' takes N^2 d multiplications, and saves N^2 for each column of T. Where processes share the rows it has to be
        made.
        """
        a = a.detach()

        def explicit() -> Tensor:
            return factor.unscale(factor.solve(a).mT).mT[..., own, :]

        def factored(t: Tensor) -> Tensor:
            r = factor.solve(t)
            return factor.unscale((r.mT @ cast(a, r.dtype)).mT)

        alone = len(range(*own.indices(a.shape[-2]))) == a.shape[-2]
        return cls(explicit, factored if alone else None, _pays(a, a.shape[-1]), factor.cholesky.dtype)

    def settle(self, outputs: int, times: int) -> None:
        """Choose the form for a number of applications to targets with so many columns."""
        if self._pays <= outputs * times:
            self._make()

    def apply(self, t: Tensor) -> Tensor:
        """W = P T, for T in the map's precision, until the next call; this process's share of it."""
        if self._factored is not None:
            return self._factored(t)
        self._make()
        assert self.transposed is not None, "a map has one of the two forms"
        # laid out as its transpose, which is how layers hold weights, and in the same memory every time
        self._applied = torch.matmul(t.mT, self.transposed, out=self._applied)
        return self._applied.mT

    def _make(self) -> None:
        if self._explicit is not None:
            self.transposed = self._explicit()
            self._explicit = self._factored = None


def _pays(a: Tensor, columns: int) -> int:
    """From how many columns of T on P' pays by the count of multiplications; small ones pay at once."""
    return 0 if a.numel() <= _SMALL else columns
