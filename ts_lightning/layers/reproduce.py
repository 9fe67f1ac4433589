"""Targets whose ridge solution is given weights W0: T = A (W0 + (A'A)^-1 R W0), in float64.

Shapes as in ``ridge/system.py``: A (..., N, d), W0 (..., d, m), T (..., N, m).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ts_lightning.ridge.system import RidgeSolver

START_DAMPING = 0.1  # of the ridge, in targets that reproduce random weights; docs/defaults.md


def reproduce_matrix(a: Tensor, w0: Tensor, solver: RidgeSolver, damping: float) -> tuple[Tensor, int]:
    """Targets T = A (W0 + (A'A + damping R)^-1 R W0), and the rank of A (not looked for where there is damping).

    Without damping the ridge solve gives W0 back: exactly where A (..., N, d) has full column rank, and projected on
    A's rows, which leaves A W0 as it is, otherwise. All in float64, for targets that are kept in A's precision.
    """
    dtype = torch.promote_types(a.dtype, torch.float32)
    a, w0 = a.double(), w0.double()
    z0 = a @ w0
    if damping == 0:
        correction, rank = least_correction(a, w0, solver, dtype)
        return z0 + correction, rank
    if a.shape[-2] < a.shape[-1]:
        factor = solver.dual(a)
        c = factor.c.unsqueeze(-1)
        return z0 + c * _damped_inverse(factor.unscale(a.mT).mT @ a.mT, z0, damping * c), a.shape[-2]
    gram, sums = a.mT @ a, a.sum(-2)
    correction, rank = reproduce_correction(gram, sums, w0, solver, a.shape[-2], damping)
    return z0 + a @ correction, rank


def least_correction(a: Tensor, w0: Tensor, solver: RidgeSolver, dtype: torch.dtype) -> tuple[Tensor, int]:
    """The least E (..., N, m) with A'E = R W0, which makes up for the ridge in T = A W0 + E; and the rank of A.

    From the singular values s of A S^-1, R = c S^2, and not from a Gram matrix, whose rounding is that of s^2. What
    rounding does to E grows with 1 / s: relative to A W0 about eps sqrt(c) / (s max s), where a direction that is left
    out costs s / max s. The cut is where both are equal, below a hundred-millionth in float64, so that it does not
    matter on which side of it rounding puts a direction.

    Args:
        a: A, (..., N, d), in float64.
        w0: W0, (..., d, m), in float64.
        solver: the ridge.
        dtype: the precision that targets are kept in.
    """
    if a.shape[-2] < a.shape[-1]:
        factor = solver.dual(a)
    else:
        factor = solver.primal(lambda dtype: (a.mT @ a, a.sum(-2)), a.shape[-2], torch.float64)
    s2, c = factor.measured.s2, factor.c.unsqueeze(-1)
    scale = 1.0 if s2 is None else s2.sqrt().unsqueeze(-2)
    right = w0 if s2 is None else s2.sqrt().unsqueeze(-1) * w0
    return least_solution(a / scale, c * right, factor.c.sqrt(), dtype)


def least_solution(a: Tensor, b: Tensor, size: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, int]:
    """The least E (..., N, m) with A'E = B, for A (..., N, d) and B (..., d, m); and the rank of A.

    Args:
        a: A, in float64.
        b: B, in float64.
        size: the root of B's size beside W0, (..., 1), see :func:`least_correction`; None for A's own size.
        dtype: the precision that E is kept in.
    """
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    largest = s[..., :1]
    share = torch.ones_like(largest) if size is None else size / largest.clamp_min(torch.finfo(s.dtype).tiny)
    kept = s > largest * (torch.finfo(dtype).eps / 2 * share.clamp_max(1.0)).sqrt()
    inverse = torch.where(kept, 1 / torch.where(kept, s, 1.0), 0.0)
    return u @ (inverse.unsqueeze(-1) * (vt @ b)), int(kept.sum(-1).min())


def reproduce_correction(
    gram: Tensor, sums: Tensor, w0: Tensor, solver: RidgeSolver, rows: int, damping: float
) -> tuple[Tensor, int]:
    """(A'A + damping R)^-1 R W0 for a full symmetric ``gram`` (..., d, d) in float64, and the rank of A.

    For an A that is never whole. Where there is no damping, what rounding does to a direction of eigenvalue l grows
    with eps c / l, relative to A W0, and to leave the direction out costs the root of l / max l. The cut is where both
    are equal.
    """
    factor = solver.primal(lambda dtype: (gram.to(dtype, copy=True), sums.to(dtype)), rows, torch.float64)
    s2 = factor.measured.s2
    scale = (torch.ones_like(sums) if s2 is None else s2.sqrt()).unsqueeze(-1)
    c = factor.c.unsqueeze(-1)
    matrix, right = gram / (scale * scale.mT), scale * w0
    if damping > 0:
        return c * _damped_inverse(matrix, right, damping * c) / scale, gram.shape[-1]
    values, vectors = torch.linalg.eigh(matrix)
    largest, eps = values[..., -1:], torch.finfo(values.dtype).eps
    share = (factor.c / largest.clamp_min(torch.finfo(values.dtype).tiny)).clamp_max(1.0)
    kept = values > largest * (eps * share).pow(2 / 3).clamp_min(eps * max(gram.shape[-1], rows))
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return c * (vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ right))) / scale, int(kept.sum(-1).min())


def _damped_inverse(matrix: Tensor, right: Tensor, shift: Tensor) -> Tensor:
    """(matrix + shift I)^-1 right."""
    shifted = matrix + shift * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.cholesky_solve(right, torch.linalg.cholesky(shifted))
