"""The unit of the ridge constant: R = ridge diag(u), where u measures the inputs A. One class a scale, and a registry.

Shapes: q = diag(A'A) (..., d), the sums of squares of A's columns; their means (..., d); N, the number of rows. A scale
maps these to u, (..., 1) where all inputs have one ridge or (..., d) where each has its own, and pulls a gradient on u
back to q and the means; how q and the means depend on A is the caller's part. B is A without its columns' means:

=========== ===========================
scale       u
=========== ===========================
"absolute"  1
"variance"  trace(B'B) / N
"mean"      trace(A'A) / d
"feature"   diag A'A
=========== ===========================

"variance" takes trace(B'B) + 1e-6 trace(A'A), and "feature" adds 1e-6 of the diagonal's mean, so that inputs that never
change have a ridge too. trace(B'B) / N is the inputs' total variance. Beside the mean eigenvalue of B'B that ridge is
ridge d / N: weak where many rows determine few weights, strong where they hardly do. It is the ridge of the Bayes
estimate for weights drawn independently when the targets hold ``ridge`` times as much noise as signal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ts_lightning import config

_FLOOR = 1e-6  # of q's sum or mean: the share of inputs that never change


class RidgeScale(ABC):
    """The unit of the ridge constant, as a function of the inputs of a layer.

    A scale has no state, so that one object serves all layers; see :func:`register_ridge_scale`.

    Attributes:
        grows_with_rows: whether u is in proportion to the number of rows, so that a sample of them has a smaller ridge
            by itself. ``False`` unless a subclass says otherwise.

    Examples:
        The inputs' total mean square, whose gradient is the same for all of them:

        >>> import torch
        >>> from ts_lightning import RidgeScale
        >>> class MeanSquare(RidgeScale):
        ...     def measure(self, squares, means, rows):
        ...         return squares.sum(-1, keepdim=True).clamp_min(1e-12) / rows
        ...     def gradient(self, du, u, squares, means, rows):
        ...         return du / rows, None
        >>> MeanSquare().measure(squares=torch.tensor([2.0, 6.0]), means=torch.zeros(2), rows=4)
        tensor([2.])
    """

    grows_with_rows: ClassVar[bool] = False

    @abstractmethod
    def measure(self, squares: Tensor, means: Tensor, rows: int) -> Tensor:
        """The diagonal of R for a ridge of 1; above 0, also for inputs that are always zero.

        Args:
            squares: the sums of squares of A's columns, diag(A'A), (..., d).
            means: the means of A's columns, (..., d).
            rows: the number of rows of A.

        Returns:
            u, (..., d), or (..., 1) for the same ridge for all inputs.
        """

    @abstractmethod
    def gradient(
        self, du: Tensor, u: Tensor, squares: Tensor, means: Tensor, rows: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Take a gradient on u back to what it was measured from.

        Args:
            du: the gradient of the loss on u, in u's shape.
            u: what :meth:`measure` returned.
            squares: as there.
            means: as there.
            rows: as there.

        Returns:
            The gradients on ``squares`` and ``means``, (..., d) or broadcast to it; None for zero.
        """


def tiny(dtype: torch.dtype) -> float:
    """What trace(A'A) is taken for where it is zero."""
    return math.sqrt(torch.finfo(dtype).tiny)


def _trace(squares: Tensor) -> Tensor:
    """trace(A'A), (..., 1), above 0."""
    return squares.sum(-1, keepdim=True).clamp_min(tiny(squares.dtype))


class Uniform(RidgeScale):
    """One ridge for all inputs: u = constant + p trace(A'A) + q ||means||^2, at least a millionth of p trace(A'A)."""

    constant: ClassVar[float] = 0.0

    @abstractmethod
    def shares(self, rows: int, inputs: int) -> tuple[float, float]:
        """P and q, for N and d."""

    def number(self, trace: float, means: float, rows: int, inputs: int) -> float:
        """u, for trace(A'A), above 0, and ||means||^2."""
        p, q = self.shares(rows, inputs)
        return max(self.constant + p * trace + q * means, _FLOOR * p * trace)

    def measure(self, squares: Tensor, means: Tensor, rows: int) -> Tensor:
        """The same for tensors, (..., 1)."""
        p, q = self.shares(rows, squares.shape[-1])
        if not p:
            return torch.full_like(squares[..., :1], self.constant)
        trace = _trace(squares)
        u = p * trace + self.constant
        return u if not q else torch.maximum(u + q * means.square().sum(-1, keepdim=True), _FLOOR * p * trace)

    def gradient(
        self, du: Tensor, u: Tensor, squares: Tensor, means: Tensor, rows: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Of each square p, and 2 q of each mean."""
        p, q = self.shares(rows, squares.shape[-1])
        return du * p if p else None, 2 * q * du * means if q else None


class Absolute(Uniform):
    """R = ridge I (Fairbank et al. 2022, equation 5)."""

    constant = 1.0

    def shares(self, rows: int, inputs: int) -> tuple[float, float]:
        """None."""
        return 0.0, 0.0


class Variance(Uniform):
    """R = ridge trace(B'B) / N I, the sum of the inputs' variances, and a millionth of their mean squares."""

    def shares(self, rows: int, inputs: int) -> tuple[float, float]:
        """A variance is the mean square less the square of the mean."""
        return (1 + _FLOOR) / rows, -1.0


class Mean(Uniform):
    """R = ridge trace(A'A) / d I."""

    grows_with_rows = True

    def shares(self, rows: int, inputs: int) -> tuple[float, float]:
        """The mean of diag(A'A)."""
        return 1 / inputs, 0.0


class Feature(RidgeScale):
    """R = ridge diag(A'A), so that the solution follows when an input is rescaled."""

    grows_with_rows = True

    def measure(self, squares: Tensor, means: Tensor, rows: int) -> Tensor:
        """diag(A'A), and a millionth of its mean."""
        return squares + _FLOOR * _trace(squares) / squares.shape[-1]

    def gradient(
        self, du: Tensor, u: Tensor, squares: Tensor, means: Tensor, rows: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """Each input's own, and the share of the mean."""
        return du + _FLOOR * du.mean(-1, keepdim=True), None


class WithNoise(RidgeScale):
    """R = ridge diag(u) + diag(noise) diag(A'A): another scale's, and what noise on the inputs adds to A'A.

    Noise that is independent between the inputs, of mean zero and of ``noise`` times an input's mean square, leaves A'T
    as it is in expectation and adds this to the Gram matrix. Dropout of rate p is such noise, of p / (1 - p) (Wager,
    Wang and Liang, Dropout Training as Adaptive Regularization, NeurIPS 2013).

    Args:
        scale: of the ridge.
        noise: in units of the ridge constant, (d,).
    """

    def __init__(self, scale: RidgeScale, noise: Tensor) -> None:
        self.scale, self.noise = scale, noise

    def measure(self, squares: Tensor, means: Tensor, rows: int) -> Tensor:
        """The scale's own measure, and the noise of each input."""
        return self.scale.measure(squares, means, rows) + self.noise * squares

    def gradient(
        self, du: Tensor, u: Tensor, squares: Tensor, means: Tensor, rows: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """The scale's own, and the noise's."""
        own = self.scale.measure(squares, means, rows)
        each = du if own.shape == du.shape else du.sum(-1, keepdim=True)
        dsquares, dmeans = self.scale.gradient(each, own, squares, means, rows)
        return du * self.noise if dsquares is None else dsquares + du * self.noise, dmeans


_SCALES: dict[str, RidgeScale] = {
    "absolute": Absolute(),
    "variance": Variance(),
    "mean": Mean(),
    "feature": Feature(),
}
_BUILT_IN = tuple(_SCALES)


def ridge_scale(name: str) -> RidgeScale:
    """The scale registered under ``name``."""
    return _SCALES[name]


def register_ridge_scale(name: str, scale: RidgeScale) -> None:
    """Give a ridge scale a name, for ``TargetSpaceConfig(ridge_scale=name)`` and ``ridge_solve(..., scale=name)``.

    Registering a name again replaces its scale for spaces made from then on. The gradient is not checked here: compare
    it with finite differences (``torch.autograd.gradcheck``) in float64.

    Args:
        name: of the setting; none of the package's own ("absolute", "variance", "mean", "feature").
        scale: how the ridge is measured, and the gradient of that.

    Raises:
        TypeError: ``scale`` is not an instance of :class:`RidgeScale`.
        ValueError: the name is one of the package's own.

    Examples:
        The ridge in units of the largest input's mean square:

        >>> import torch
        >>> from ts_lightning import RidgeScale, register_ridge_scale, ridge_solve
        >>> class Largest(RidgeScale):
        ...     def measure(self, squares, means, rows):
        ...         return squares.amax(-1, keepdim=True).clamp_min(1e-12) / rows
        ...     def gradient(self, du, u, squares, means, rows):
        ...         largest = squares == squares.amax(-1, keepdim=True)
        ...         return du * largest / rows, None
        >>> register_ridge_scale("largest", Largest())
        >>> a = torch.eye(2, dtype=torch.float64)
        >>> ridge_solve(a, a, 2.0, scale="largest")  # of two rows, a mean square of a half
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    if not isinstance(scale, RidgeScale):
        raise TypeError(
            f"register_ridge_scale: found {scale!r}; expected an instance of a subclass of ts_lightning.RidgeScale."
        )
    if name in _BUILT_IN:
        raise ValueError(f"register_ridge_scale: {name!r} is one of the package's own scales; choose another name.")
    _SCALES[name] = scale
    if name not in config.ridge_scales:
        config.ridge_scales.append(name)
