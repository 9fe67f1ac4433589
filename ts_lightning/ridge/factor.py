"""The factor of one regularised system A'A + R = L L'.

Shapes and symbols as in ``system.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ts_lightning.ridge.cholesky import Cholesky
from ts_lightning.ridge.measured import Measured


def unscaled(b: Tensor, s2: Tensor | None) -> Tensor:
    """S^-2 B for B (..., d, m); None is the identity."""
    return b if s2 is None else b / s2.unsqueeze(-1)


@dataclass
class Factor:
    """The Cholesky factor of one regularised system, and what its backward pass needs beside it.

    Attributes:
        cholesky: of A'A + R, or of the dual system.
        measured: what R is made of.
        ridge: the constant in R.
        dual: whether the system is the dual one.
    """

    cholesky: Cholesky
    measured: Measured
    ridge: float
    dual: bool

    @cached_property
    def c(self) -> Tensor:
        """The number c, (..., 1)."""
        c = self.measured.c(self.ridge)
        return c if isinstance(c, Tensor) else self.cholesky.lower.new_tensor([c])

    def solve(self, b: Tensor) -> Tensor:
        """The regularised system's inverse times ``b``, in the factor's precision."""
        return self.cholesky.solve(b)

    def diagonal(self) -> Tensor:
        """The diagonal of R, (..., d), of the primal form."""
        s2 = self.measured.s2
        return self.c.expand_as(self.measured.squares) if s2 is None else self.c * s2

    def unscale(self, b: Tensor) -> Tensor:
        """S^-2 ``b`` for ``b`` (..., d, m)."""
        return unscaled(b, self.measured.s2)


#: function that every solve calls with the factors of its systems, T, and a function that returns T - A W, both at
#: this process's rows
Observer = Callable[[Sequence[Factor], Tensor, Callable[[], Tensor]], None]
