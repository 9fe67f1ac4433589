"""The differentiable ridge solves: W with A W for one system, and W alone for blocks that share their rows.

Primal or dual by shape (``primal.py``, ``dual.py``); one Cholesky factor serves forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ts_lightning.ridge.dual import DualApply
from ts_lightning.ridge.primal import WHOLE, Block, PrimalApply, PrimalBlocks
from ts_lightning.ridge.system import RidgeSolver


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
        w = solve_apply(a[..., inputs], t[..., outputs], solver.of(inputs))[0]
        first, last, _ = inputs.indices(columns)
        parts.append(functional.pad(w, (0, 0, first, columns - last)))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
