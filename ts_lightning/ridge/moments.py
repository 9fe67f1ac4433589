"""What a primal system needs of A: the Gram matrix A'A and the sums of A's columns, of all processes' rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ts_lightning.ridge.processes import Rows

_BLOCK = 128  # columns; a Gram matrix wider than two blocks is computed by its lower blocks only
_SENT = 64  # rows of a Gram matrix in one block of a message, whose upper triangle is not sent

#: function of a precision that returns A'A (..., d, d), lower triangle at least and free to be written to, and the sums
#: of A's columns (..., d)
Moments = Callable[[torch.dtype], tuple[Tensor, Tensor]]


def gram_matrix(a: Tensor) -> Tensor:
    """A'A for ``a`` (..., N, d); of a large one only the lower triangle is meaningful, which is all Cholesky reads."""
    d = a.shape[-1]
    if a.dim() > 2 or d <= 2 * _BLOCK:
        return a.mT @ a
    out = a.new_empty(d, d)
    for start in range(0, d, _BLOCK):
        stop = min(start + _BLOCK, d)
        torch.mm(a[:, start:stop].mT, a[:, :stop], out=out[start:stop, :stop])
    return out


def matrix_moments(a: Tensor, *, ones: bool = False) -> tuple[Tensor, Tensor]:
    """A'A as :func:`gram_matrix` has it, and the sums of A's columns (..., d).

    Args:
        a: A (..., N, d).
        ones: whether its last column is of ones, so that the sums are A'A's last row; they are then a view of it.
    """
    gram = gram_matrix(a)
    return gram, gram[..., -1, :] if ones else a.sum(-2)


def sum_moments(rows: Rows, gram: Tensor, *others: Tensor) -> None:
    """Add up a Gram matrix (its lower triangle) and other sums over the processes that hold rows, in place."""
    if rows.ranks == 1:
        return
    starts = range(0, gram.shape[-1], _SENT)
    rows.sum(*(gram[..., start : start + _SENT, : start + _SENT] for start in starts), *others)
