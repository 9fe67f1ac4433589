"""What later uses of a layer have and its first one has not, from whose rows the layer is solved.

A cell of one's own that begins with a state of zeros, a decoder that begins with one token, a network over time that
begins at zero: there a layer is given the same in all rows first, and something else later. The weights behind such
inputs do not follow from the rows of the first use, and would never change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ts_lightning.errors import TargetSpaceError
from ts_lightning.layers.base import TargetLayer

_SAME = 1e-5  # of the largest number of a column, up to which it is the same in all rows
_SMALL = 1e-3  # the same, up to which a number or a row is that of the first use
_RARE = 0.01  # of the rows of a later use, in which other numbers are rare
_ALL_BUT = 1e-10  # of the largest eigenvalue, below which the first use has nothing in a direction
_WIDEST = 2048  # features, up to which eigenvalues are computed
_MANY = 0.1  # of all features, from which on combinations that are missing keep a layer from being solved


class Uses:
    """The uses of layers that one forward uses several times.

    Args:
        names: of these layers.

    Attributes:
        missing: by layer name, how many of its features or combinations of them its first use lacks, and how many
            features there are; of those that lack some.
        states: by layer name, which features (features,) are the same in all rows of its first use, and not later.
        some: the names of layers whose first use lacks what is rare later, as a word that no sentence begins with.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.missing: dict[str, tuple[int, int]] = {}
        self.states: dict[str, Tensor] = {}
        self.some: set[str] = set()
        self._names = frozenset(names)
        self._first: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def see(self, layer: TargetLayer, x: Tensor) -> None:
        """Take note of a use: of the first, or of what a later one has beside it."""
        if layer.name not in self._names:
            return
        features = [rows.detach().reshape(-1, rows.shape[-1]).double().cpu() for rows in layer.features(x)]
        if layer.name not in self._first:
            self._first[layer.name] = [rows.clone() for rows in features]
            return
        pairs = [(a, b) for a, b in zip(self._first[layer.name], features, strict=False) if a.shape[1:] == b.shape[1:]]
        lacks, every = sum(lacking(a, b) for a, b in pairs), sum(a.shape[1] for a, _ in pairs)
        if len(pairs) == 1:
            states = constant_at_first(*pairs[0])
            self.states[layer.name] = self.states.get(layer.name, torch.zeros_like(states)) | states
        if any(bool(constant_at_first(a, b, _RARE).any()) for a, b in pairs):
            self.some.add(layer.name)
        if lacks > self.missing.get(layer.name, (0, 0))[0]:
            self.missing[layer.name] = lacks, every

    def why(self, layer: TargetLayer) -> tuple[str, TargetSpaceError] | None:
        """Why a layer cannot be solved from its first use: in a few words, and as an error."""
        if layer.name not in self.missing:
            return None
        lacks, every = self.missing[layer.name]
        return "its first use lacks inputs of later ones", TargetSpaceError(
            f"layer '{layer.name}' is used several times in one forward, and solved from the rows of its first use. "
            f"There {lacks} of its {every} inputs say nothing, as a state of zeros or a start token does, and later "
            f"they do: weights behind them would never change. Call a recurrent module once for the whole sequence, "
            f"or add '{layer.module_name}' to exclude."
        )


def lacking(first: Tensor, later: Tensor) -> int:
    """How many columns of ``later`` (rows, d), or combinations, are the same in all rows of ``first`` and not in it.

    They have to be other than in ``first`` in half of the rows of ``later``: what is rare (a pixel at a border) is
    missing in some samples only, and another mini-batch has it.
    """
    if not _finite(first, later):
        return 0
    size, same = _constant(first, later)
    constant = int(constant_at_first(first, later).sum())
    return constant or _dependent(first[:, ~same] / size[~same], later[:, ~same] / size[~same])


def constant_at_first(first: Tensor, later: Tensor, share: float = 0.5) -> Tensor:
    """Which columns of ``later`` (rows, d) are the same in all rows of ``first``, and others in a share of it, (d,)."""
    if not _finite(first, later):
        return torch.zeros(first.shape[1], dtype=torch.bool)
    size, same = _constant(first, later)
    return same & (((later - first[0]).abs() > _SMALL * size).double().mean(0) >= share)


def _finite(first: Tensor, later: Tensor) -> bool:
    """Whether there are rows of both, without infinities."""
    return bool(len(first) and len(later) and first.isfinite().all() and later.isfinite().all())


def _constant(first: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
    """The sizes of the columns, (d,), and which are the same in all rows of ``first``, (d,)."""
    size = torch.maximum(first.abs().amax(0), later.abs().amax(0)).clamp_min(torch.finfo(first.dtype).tiny)
    return size, first.amax(0) - first.amin(0) <= _SAME * size


def _dependent(first: Tensor, later: Tensor) -> int:
    """How many combinations of columns, with one of ones, are zero in all rows of ``first``, if they are not later."""
    d = first.shape[1] + 1
    if d == 1 or d > _WIDEST:
        return 0
    a, b = (torch.cat([rows, rows.new_ones(len(rows), 1)], 1) for rows in (first, later))
    values, vectors = torch.linalg.eigh(a.T @ a)
    empty = values <= _ALL_BUT * values[-1]
    count = int(empty.sum())
    if count < _MANY * d or d - count >= len(a):  # the latter are no fewer than there are rows
        return 0
    outside = (b @ vectors[:, empty]).square().sum(1)
    return count if (outside > _SMALL**2 * b.square().sum(1)).double().mean() >= 0.5 else 0
