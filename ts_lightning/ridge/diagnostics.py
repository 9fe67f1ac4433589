"""What the Cholesky factor of a ridge system tells about it: its condition, its effective rank and the ridge in it.

All of it costs one inverse of the triangular factor and no factorisation. Every measure is (...), one for each of the
problems in a factor's leading dimensions (the groups of a convolution).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ts_lightning.ridge.factor import Factor

_ITERATIONS = 4  # of the power method; each is two products of a triangle and a vector


def spectrum(factor: Factor) -> tuple[Tensor, Tensor]:
    """The condition number of the system that was factorised, and the effective rank of A.

    The condition is an estimate of lambda_max / lambda_min in the 2-norm of A'A + R, or of A S^-2 A' + c I in the dual:
    a lower bound, from Rayleigh quotients of the power method with L L' and with its inverse. Both start at the unit
    vector of the largest diagonal entry, so that it is never below the usual (max L_jj / min L_jj)^2.

    The effective rank is the effective degrees of freedom of the ridge regression, tr((A'A + R)^-1 A'A) (Hastie,
    Tibshirani and Friedman, The Elements of Statistical Learning, equation 3.50): every direction of A counts as
    s^2 / (s^2 + r) for its singular value s and ridge r, as much as it can be fitted. At most the rank of A, which it
    is for a ridge towards 0.

    Returns:
        Both, each (...).
    """
    lower, inverse = factor.cholesky.lower, factor.cholesky.inverse()
    size = lower.shape[-1]
    condition = _largest_eigenvalue(lower) * _largest_eigenvalue(inverse.mT)
    # of the inverse, which the trace of a product with the diagonal R needs alone
    diagonal = inverse.square().sum(-2)
    shrunk = (factor.c if factor.dual else factor.diagonal()) * diagonal
    return condition, size - shrunk.sum(-1)


def ridge(factor: Factor) -> Tensor:
    """The ridge that was used: the mean of R's diagonal, (...)."""
    return factor.diagonal().double().mean(-1)


def _largest_eigenvalue(factor: Tensor) -> Tensor:
    """A lower bound of the largest eigenvalue of ``factor`` times its transpose, (...) for (..., d, d)."""
    x = torch.zeros_like(factor[..., :1])
    x.scatter_(-2, factor.square().sum(-1).argmax(-1)[..., None, None], 1.0)
    for _ in range(_ITERATIONS):
        x = factor @ (factor.mT @ x)
        x = x / x.norm(dim=-2, keepdim=True)
    return (factor.mT @ x).square().sum((-2, -1))
