"""The differentiable ridge solves: W with A W for one system, and W alone for blocks that share their rows.

Primal or dual by shape (``primal.py``, ``dual.py``); one Cholesky factor serves forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from ts_lightning.config import RidgeScale, check_choice, check_positive
from ts_lightning.dual import DualApply
from ts_lightning.precision import full_precision
from ts_lightning.primal import WHOLE, Block, PrimalApply, PrimalBlocks
from ts_lightning.ridge import RidgeSolver
from ts_lightning.shards import ShardedRows, Shards


def solve_apply(a: Tensor, t: Tensor, solver: RidgeSolver) -> tuple[Tensor, Tensor]:
    """W and Z = A W, differentiable in A (..., N, d) and T (..., N, m)."""
    function = DualApply if solver.rows(a.shape[-2]).total < a.shape[-1] else PrimalApply
    w, z = function.apply(a, t, solver)  # type: ignore[no-untyped-call]
    return w, z


def solve(a: Tensor, t: Tensor, solver: RidgeSolver, blocks: Sequence[Block] = (WHOLE,)) -> Tensor:
    """W alone, differentiable in A (..., N, d) and T (..., N, m).

    Args:
        a: the inputs of all blocks.
        t: the targets of all blocks.
        solver: the ridge.
        blocks: systems that are solved each for itself, whose targets are all of T's columns in order; W (..., d, m) is
            0 outside of them.
    """
    columns = a.shape[-1]
    # the form without a residual spends N d d on A (V W' + W V') and saves 2 N d m
    if solver.rows(a.shape[-2]).total >= columns and (len(blocks) > 1 or columns < 2 * t.shape[-1]):
        return PrimalBlocks.apply(a, t, solver, blocks)  # type: ignore[no-any-return, no-untyped-call]
    parts = []
    for inputs, outputs in blocks:
        w = solve_apply(a[..., inputs], t[..., outputs], solver)[0]
        first, last, _ = inputs.indices(columns)
        parts.append(functional.pad(w, (0, 0, first, columns - last)))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def ridge_solve(
    a: Tensor,
    t: Tensor,
    ridge: float,
    *,
    scale: RidgeScale = "absolute",
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Solve W = (A'A + R)^-1 A'T, differentiably; primal for N >= d and dual otherwise.

    Half-precision input is accumulated and factorised in float32; float64 is used where float32 cannot hold A'A.

    With a ``group``, A and T are this process's rows (any number, none too) of a system that all of its processes solve
    together, to the same W bit for bit; the gradient on W is then the sum of theirs.

    Args:
        a: inputs A, shape (..., N, d).
        t: targets T, shape (..., N, m).
        ridge: the ridge constant, above 0, in the unit that ``scale`` says.
        scale: the unit of ``ridge``: "absolute": R = ridge I; "variance": R = ridge trace(B'B) / N I, where B is A
            without its columns' means; "mean": R = ridge trace(A'A) / d I; "feature": R = ridge diag(A'A).
        group: the processes that hold rows; ``None`` where all rows are here.

    Returns:
        W, shape (..., d, m), in the precision of ``t``.

    Raises:
        TargetSpaceError: A or T holds a NaN or an infinity.
        ValueError: shapes do not fit, the ridge is not above 0, or the scale is unknown.

    Source: Fairbank et al. (2022), equation 5; the scales are this package's.
    """
    if a.dim() < 2 or t.dim() < 2 or a.shape[:-1] != t.shape[:-1]:
        raise ValueError(
            f"ridge_solve: found A {tuple(a.shape)} and T {tuple(t.shape)}; expected (..., N, d) and (..., N, m)."
        )
    check_positive("ridge", ridge)
    check_choice("scale", scale, get_args(RidgeScale))
    solver = RidgeSolver(ridge, scale)
    if group is not None:
        shards = Shards(group, 0)
        solver.shared = ShardedRows(shards, shards.objects(a.shape[-2]))
    if 0 in (solver.rows(a.shape[-2]).total, *a.shape[:-2], a.shape[-1]):
        raise ValueError(f"ridge_solve: found an empty A, {tuple(a.shape)}; expected at least one row and one column.")
    with full_precision(a.device):
        return solve(a, t, solver)
