"""The measure of one A that its R is made of, and how R depends on A.

Shapes and symbols as in ``system.py``.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ts_lightning.ridge.scales import RidgeScale, Uniform, tiny


def measure(scale: RidgeScale, squares: Tensor, means: Tensor, rows: int) -> Measured:
    """Measure an A, see :class:`Measured`."""
    if isinstance(scale, Uniform) and squares.dim() == 1 and squares.device.type == "cpu":
        return MeasuredByNumbers(scale, squares, means, rows)
    return Measured(scale, squares, means, rows)


class Measured:
    """What R is made of.

    Args:
        scale: measures it.
        squares: the sums of squares of A's columns, (..., d).
        means: of A's columns, (..., d).
        rows: the number of rows of A.
    """

    def __init__(self, scale: RidgeScale, squares: Tensor, means: Tensor, rows: int) -> None:
        self._scale = scale
        self.squares, self.means, self.rows = squares, means, rows

    @cached_property
    def u(self) -> Tensor:
        """The diagonal of R for a ridge of 1, (..., 1) or (..., d)."""
        return self._scale.measure(self.squares, self.means, self.rows)

    @cached_property
    def s2(self) -> Tensor | None:
        """S^2, (..., d); None for the identity."""
        return None if self.u.shape[-1] == 1 else self.u

    def c(self, ridge: float) -> Tensor | float:
        """The number c for a ridge constant, (..., 1)."""
        return ridge * self.u if self.s2 is None else torch.full_like(self.u[..., :1], ridge)

    def trace(self, diagonal: Tensor, *, dual: bool) -> Tensor | float:
        """The trace (..., 1) of the system without R, in units of S^2, for its diagonal (..., d) or (..., N)."""
        return (diagonal if dual or self.s2 is None else diagonal / self.s2).sum(-1, keepdim=True)

    def gradient(self, cvw: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """How R depends on A: -k / 2 and -N h for the k and h of dL/dA += A diag(k) + 1 h'; None for zero.

        With dL/dR_j = -(V * W)_j summed over outputs, these are the gradients on the squares and means for -dL/du.

        Args:
            cvw: c (V * W) summed over outputs, (..., d); or over inputs too, (..., 1), where R is the same for all.

        Returns:
            Both, (..., d) or broadcast to it.
        """
        du = cvw.sum(-1, keepdim=True) / self.u if self.s2 is None else cvw
        return self._scale.gradient(du, self.u, self.squares, self.means, self.rows)

    def weighed(self, v: Tensor, w: Tensor, ridge: float) -> Tensor | float:
        """C (V * W), summed as :meth:`gradient` takes it, for V and W (..., d, m)."""
        return self.c(ridge) * (v * w).sum(-1)

    def add_gradient(self, da: Tensor, a: Tensor, cvw: Tensor | float) -> Tensor:
        """``da`` (..., N, d) with A diag(k) + 1 h' added, in place, for what :meth:`weighed` gives."""
        assert isinstance(cvw, Tensor)
        gain, offset = self.gradient(cvw)
        if gain is not None:
            da.addcmul_(a, gain.unsqueeze(-2), value=-2)
        if offset is not None:
            da.add_(offset.unsqueeze(-2), alpha=-1 / self.rows)
        return da


class MeasuredByNumbers(Measured):
    """The same for one system with one ridge for all inputs, on a processor.

    An operation on a tensor of one number takes as long there as a small product, one on a number next to nothing.
    """

    def __init__(self, scale: Uniform, squares: Tensor, means: Tensor, rows: int) -> None:
        super().__init__(scale, squares, means, rows)
        inputs = squares.shape[0]
        self._trace = max(squares.sum().item(), tiny(squares.dtype))
        self._per_trace, self._per_mean = scale.shares(rows, inputs)
        length = torch.dot(means, means).item() if self._per_mean else 0.0
        self._number = scale.number(self._trace, length, rows, inputs)

    @cached_property
    def s2(self) -> None:
        """The identity."""
        return None

    @cached_property
    def u(self) -> Tensor:
        """As there, (1,)."""
        return self.squares.new_tensor([self._number])

    def c(self, ridge: float) -> float:
        """As there."""
        return ridge * self._number

    def trace(self, diagonal: Tensor, *, dual: bool) -> float:
        """That of A'A, which is that of AA', too."""
        return self._trace

    def weighed(self, v: Tensor, w: Tensor, ridge: float) -> float:
        """As there, summed over inputs too."""
        return self.c(ridge) * torch.dot(v.mT.reshape(-1), w.mT.reshape(-1)).item()

    def add_gradient(self, da: Tensor, a: Tensor, cvw: Tensor | float) -> Tensor:
        """As there: multiples of A and of the means of its columns."""
        du = (cvw.sum().item() if isinstance(cvw, Tensor) else cvw) / self._number
        if self._per_trace:
            da.add_(a, alpha=-2 * du * self._per_trace)
        if self._per_mean:
            da.sub_(self.means, alpha=2 * du * self._per_mean / self.rows)
        return da
