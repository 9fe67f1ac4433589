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
    A's rows, which leaves A W0 as it is, otherwise. All in float64.
    """
    a, w0 = a.double(), w0.double()
    z0 = a @ w0
    if a.shape[-2] < a.shape[-1]:
        factor = solver.dual(a)
        kernel = factor.unscale(a.mT).mT @ a.mT
        c = factor.c.unsqueeze(-1)
        inverse, rank = _inverse(kernel, z0, damping * c, a.shape[-1])
        return z0 + c * inverse, rank
    gram, sums = a.mT @ a, a.sum(-2)
    correction, rank = reproduce_correction(gram, sums, w0, solver, a.shape[-2], damping)
    return z0 + a @ correction, rank


def reproduce_correction(
    gram: Tensor, sums: Tensor, w0: Tensor, solver: RidgeSolver, rows: int, damping: float
) -> tuple[Tensor, int]:
    """(A'A + damping R)^-1 R W0 for a full symmetric ``gram`` (..., d, d) in float64, and the rank of A."""
    factor = solver.primal(lambda dtype: (gram.to(dtype, copy=True), sums.to(dtype)), rows, torch.float64)
    s2 = factor.measured.s2
    scale = (torch.ones_like(sums) if s2 is None else s2.sqrt()).unsqueeze(-1)
    c = factor.c.unsqueeze(-1)
    inverse, rank = _inverse(gram / (scale * scale.mT), scale * w0, damping * c, rows)
    return c * inverse / scale, rank


def _inverse(matrix: Tensor, right: Tensor, shift: Tensor, size: int) -> tuple[Tensor, int]:
    """(matrix + shift I)^-1 right, or the pseudo-inverse's for shift 0; and the least rank, if it was looked for."""
    if (shift > 0).all():
        shifted = matrix + shift * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        return torch.cholesky_solve(right, torch.linalg.cholesky(shifted)), matrix.shape[-1]
    return pseudo_inverse(matrix, right, size)


def pseudo_inverse(matrix: Tensor, right: Tensor, size: int) -> tuple[Tensor, int]:
    """The pseudo-inverse of a Gram matrix (..., d, d) of ``size`` rows times ``right``; and the least rank."""
    values, vectors = torch.linalg.eigh(matrix)
    floor = torch.finfo(values.dtype).eps * max(matrix.shape[-1], size) * values[..., -1:]
    kept = values > floor
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    return vectors @ (inverse.unsqueeze(-1) * (vectors.mT @ right)), int(kept.sum(-1).min())
