"""The linear map from targets to weights that a solve leaves behind: W = P T with P = (A'A + R)^-1 A', A and R kept.

Shapes as in ``system.py``: A (..., N, d), T (..., N, m), W (..., d, m). A gradient G on W gives P'G on T, as long as A
and R stay. The map is held in one of two forms:

- explicit: P' (..., N, d), as large as A; one product;
- factored: A, as a matrix or as an operator, and the Cholesky factor: W = M^-1 (A'T), or in the dual form
  W = S^-2 A' (K^-1 T), which is made from all rows.

Where processes share the rows, each has the columns of P that belong to its rows, and W is the sum of what their maps
give. P'G on a process's own targets needs no message.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ts_lightning.ridge.cholesky import Cholesky, stack
from ts_lightning.ridge.factor import unscaled
from ts_lightning.ridge.precision import cast

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


class KeptMap(ABC):
    """The map of one system, or of several of one shape.

    Args:
        dtype: the precision that the map is held and applied in.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def settled(self, outputs: int, times: int) -> KeptMap:
        """The form that serves a number of products with P or P' best, each with so many columns of T or W."""
        return self

    @abstractmethod
    def apply(self, t: Tensor, out: Tensor | None = None) -> Tensor:
        """W = P T, for T in the map's precision, until the next call; this process's share of it.

        Args:
            t: T.
            out: takes W' (..., m, d), which is how layers hold weights.
        """

    @abstractmethod
    def pull(self, g: Tensor) -> Tensor:
        """P'G (..., N, m) at this process's rows, for G (..., d, m) in the map's precision."""


class ExplicitMap(KeptMap):
    """P' itself.

    Args:
        transposed: P' (..., N, d) of this process's rows.
    """

    def __init__(self, transposed: Tensor) -> None:
        super().__init__(transposed.dtype)
        self._transposed = transposed
        self._applied: Tensor | None = None

    def apply(self, t: Tensor, out: Tensor | None = None) -> Tensor:
        """One product, laid out as its transpose, in the same memory every time."""
        if out is not None and out.dtype != self.dtype:
            return out.copy_(t.mT @ self._transposed).mT
        self._applied = torch.matmul(t.mT, self._transposed, out=self._applied if out is None else out)
        return self._applied.mT

    def pull(self, g: Tensor) -> Tensor:
        """One product."""
        return self._transposed @ g


class FactoredMap(KeptMap):
    """A and the Cholesky factor.

    Args:
        cholesky: the factor.

    Attributes:
        cholesky: see above.
    """

    def __init__(self, cholesky: Cholesky) -> None:
        super().__init__(cholesky.dtype)
        self.cholesky = cholesky

    @property
    @abstractmethod
    def matrix(self) -> Tensor | None:
        """A (..., N, d); None where it is an operator."""

    @property
    def small(self) -> bool:
        """Whether calls cost more than what they compute."""
        a = self.matrix
        return a is not None and a.numel() <= _SMALL

    def form(self) -> tuple[object, ...]:
        """What maps have in common that can be stacked."""
        a, factor = self.matrix, self.cholesky.lower
        assert a is not None, "operators are not stacked"
        return type(self), a.shape, a.dtype, a.device, factor.shape, factor.dtype

    @classmethod
    @abstractmethod
    def stacked(cls, maps: Sequence[FactoredMap]) -> FactoredMap:
        """The map of the systems of all these maps, which are of this class and of one :meth:`form`."""

    @abstractmethod
    def explicit(self) -> ExplicitMap:
        """P'."""

    def settled(self, outputs: int, times: int) -> KeptMap:
        """P' where it pays by the count of multiplications, and of a small one where it serves twice."""
        a = self.matrix
        pays = a is not None and (times > 1 if self.small else self._columns(a) <= outputs * times)
        return self.explicit() if pays else self

    @abstractmethod
    def _columns(self, a: Tensor) -> int:
        """From how many columns of T on, over all products, P' takes fewer multiplications to make than it saves."""


class PrimalMap(FactoredMap):
    """The map of a primal solve; P' takes N d^2 multiplications, and saves d^2 for each column of T.

    Args:
        inputs: A.
        cholesky: of A'A + R.
    """

    def __init__(self, inputs: Inputs, cholesky: Cholesky) -> None:
        super().__init__(cholesky)
        self._inputs = inputs

    @property
    def matrix(self) -> Tensor | None:
        """A."""
        return self._inputs.tensor if isinstance(self._inputs, Matrix) else None

    @classmethod
    def stacked(cls, maps: Sequence[FactoredMap]) -> PrimalMap:
        """One map."""
        return cls(Matrix(stack([one.matrix for one in maps])), Cholesky.stacked([one.cholesky for one in maps]))

    def explicit(self) -> ExplicitMap:
        """By the factor."""
        a = self.matrix
        assert a is not None, "only a matrix has an explicit form"
        return ExplicitMap(self.cholesky.solve(a.mT).mT.contiguous())

    def apply(self, t: Tensor, out: Tensor | None = None) -> Tensor:
        """M^-1 (A'T)."""
        return _into(out, self.cholesky.solve(self._inputs.adjoint(t)))

    def pull(self, g: Tensor) -> Tensor:
        """A (M^-1 G)."""
        a = self.matrix
        assert a is not None, "gradients of operators go through their graph"
        return cast(a, g.dtype) @ self.cholesky.solve(g)

    def _columns(self, a: Tensor) -> int:
        return a.shape[-2]


class DualMap(FactoredMap):
    """The map of a dual solve of all processes' rows, of which this process has its own.

    P' takes N^2 d multiplications, and saves N^2 for each column of T. Where processes share the rows P' has to be made
    for W = P T, whose factored form would need the targets of all of them.

    Args:
        a: A.
        cholesky: of A S^-2 A' + c I.
        s2: the diagonal of S^2, (..., d); None for the identity.
        own: this process's rows.
    """

    def __init__(self, a: Tensor, cholesky: Cholesky, s2: Tensor | None, own: slice) -> None:
        super().__init__(cholesky)
        self._a, self._s2, self._own = a.detach(), s2, own
        self._alone = len(range(*own.indices(a.shape[-2]))) == a.shape[-2]

    @property
    def matrix(self) -> Tensor:
        """A of all processes' rows."""
        return self._a

    def form(self) -> tuple[object, ...]:
        """Also whether there is an S^2, and which rows are this process's."""
        return *super().form(), self._s2 is None, self._own.start, self._own.stop

    @classmethod
    def stacked(cls, maps: Sequence[FactoredMap]) -> DualMap:
        """One map."""
        duals = [one for one in maps if isinstance(one, DualMap)]
        s2 = None if duals[0]._s2 is None else stack([one._s2 for one in duals])
        factor = Cholesky.stacked([one.cholesky for one in duals])
        return cls(stack([one.matrix for one in duals]), factor, s2, duals[0]._own)

    def settled(self, outputs: int, times: int) -> KeptMap:
        """P', too, where it would be made again and again."""
        return self.explicit() if times > 1 and not self._alone else super().settled(outputs, times)

    def explicit(self) -> ExplicitMap:
        """By the factor."""
        return ExplicitMap(unscaled(self.cholesky.solve(self._a).mT, self._s2).mT[..., self._own, :])

    def apply(self, t: Tensor, out: Tensor | None = None) -> Tensor:
        """S^-2 A' (K^-1 T)."""
        if not self._alone:
            return self.explicit().apply(t, out)
        r = self.cholesky.solve(t)
        return _into(out, unscaled((r.mT @ cast(self._a, r.dtype)).mT, self._s2))

    def pull(self, g: Tensor) -> Tensor:
        """K^-1 (A S^-2 G)."""
        return self.cholesky.solve(cast(self._a, self.dtype) @ unscaled(g, self._s2))[..., self._own, :]

    def _columns(self, a: Tensor) -> int:
        return a.shape[-1]


def _into(out: Tensor | None, w: Tensor) -> Tensor:
    """W, in the memory that there is for W'."""
    return w if out is None else out.copy_(w.mT).mT
