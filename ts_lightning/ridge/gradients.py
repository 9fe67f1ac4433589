"""What the backward passes of the solves share: sums over processes and products in place."""

from __future__ import annotations

import torch
from torch import Tensor

from ts_lightning.ridge.processes import Rows
from ts_lightning.ridge.system import RidgeSolver


def sum_gradients(g: Tensor, rows: Rows, solver: RidgeSolver, *, inside: bool = False) -> Tensor:
    """dL/dW added up over the processes that hold rows; without a message where it is the same in all of them.

    Args:
        g: this process's.
        rows: where the rows are.
        solver: says whether dL/dW itself is the same in all processes.
        inside: whether ``g`` holds more than dL/dW, a part A'(dL/dZ) of this process's rows.
    """
    if rows.ranks == 1:
        return g
    if solver.gradient_is_replicated and not inside:
        return g * rows.ranks
    total = g.clone(memory_format=torch.contiguous_format)
    rows.sum(total)
    return total


def add_product(to: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``to`` with a product added, in place."""
    return to.addmm_(left, right) if to.dim() == 2 else to.add_(left @ right)


def plus_product(to: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """``to`` with a product added."""
    return torch.addmm(to, left, right) if to.dim() == 2 else to + left @ right
