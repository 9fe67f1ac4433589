"""Choosing the rows of A that a layer is solved from: how many, which, and which of them are in which process.

A row is one place where a layer is applied: a sample, a sample and position, a sample and step. Rows are numbered in
the C order of the places, (samples, *positions) for most layers. docs/defaults.md has the measurements behind "auto".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ts_lightning.config import Rows
from ts_lightning.ridge.processes import Cut, ShardedRows, Shards
from ts_lightning.ridge.scales import RidgeScale

_LEAST_ROWS = 2048
_ROWS_PER_COLUMN = 32


def sequence_rows(columns: int) -> int:
    """The number of rows that "auto" keeps of a layer with ``columns`` inputs that is applied at every step."""
    return max(_LEAST_ROWS, _ROWS_PER_COLUMN * columns)


def sequence_ridge(share: float, scale: RidgeScale) -> float:
    """The "auto" ridge of a layer that is solved from a ``share`` of the steps of its sequences.

    R is then in proportion to the number of rows, either by this number or by its scale.
    """
    return 1.0 if scale.grows_with_rows else share


def patch_ridge(rows: int, columns: int, scale: RidgeScale, *, through: bool) -> float:
    """The "auto" ridge of a convolution that is solved from a sample of its rows.

    It makes R half the mean of the eigenvalues of A'A that are not zero, however many rows a layer with few inputs has.
    The gradient through A holds (A'A + R)^-1, and a much smaller R makes it large along directions that hardly occur.
    Where that gradient is left out, the smaller R ends higher; docs/defaults.md.

    Args:
        rows: in the sample.
        columns: of A.
        scale: the unit of the ridge.
        through: whether gradients pass through A, see ``cascade_gradient``.
    """
    return 0.5 * max(1.0, rows / columns) if through and not scale.grows_with_rows else 0.5


def sample_rows(
    rows: Rows | Tensor, total: int, auto: int, generator: torch.Generator, device: torch.device
) -> Tensor | None:
    """Choose rows: a count to sample, or explicit indices.

    Args:
        rows: the setting ``reference.rows``, or the indices.
        total: the number of rows.
        auto: the count that "auto" stands for.
        generator: for the sample.
        device: where the indices go.

    Returns:
        The indices in rising order, (rows,); None for all rows.
    """
    if isinstance(rows, Tensor):
        return rows.to(device)
    count = auto if rows == "auto" else total if rows == "all" else rows
    if count >= total:
        return None
    return torch.randperm(total, generator=generator)[:count].sort().values.to(device)


def sample_dimension(places: torch.Size, shares: Sequence[torch.Size], shards: Shards) -> int | None:
    """The dimension of a layer's places along which the samples of the reference batch lie.

    Args:
        places: of the whole reference batch.
        shares: of each process's samples.
        shards: the processes.

    Returns:
        The dimension, a multiple of the samples; None where there is no such dimension.
    """
    changed = {d for share in shares for d, (some, all_) in enumerate(zip(share, places, strict=True)) if some != all_}
    dim = min(changed, default=0)
    samples = [high - low for low, high in map(shards.bounds, range(shards.ranks))]
    if len(changed) != 1 or any(
        share[dim] * shards.samples != places[dim] * count for share, count in zip(shares, samples, strict=True)
    ):
        return None
    return dim


def share_rows(
    rows: Tensor | None, places: torch.Size, here: torch.Size, dim: int, shards: Shards, uses: int = 1
) -> tuple[Tensor | None, ShardedRows, Cut]:
    """This process's share of a layer's rows.

    Args:
        rows: the sampled rows of the whole reference batch; None for all.
        places: of the whole reference batch.
        here: of this process's samples.
        dim: the dimension of the places along which samples lie.
        shards: the processes.
        uses: how many times the samples are lined up along it.

    Returns:
        The rows among those of this process's samples (None for all), how all rows are spread over the processes, and
        which of the targets are this process's.
    """
    samples = places[dim] // uses
    limits = [shards.bounds(rank, samples) for rank in range(shards.ranks)]
    if rows is None:
        each = places.numel() // places[dim]
        shared = ShardedRows(shards, [each * uses * (high - low) for low, high in limits])
        lined_up = torch.arange(places[dim]).view(uses, samples)
        return None, shared, Cut(shards, dim, [lined_up[:, low:high].flatten() for low, high in limits])
    at = torch.stack(torch.unravel_index(rows.cpu(), places))
    sample, use = at[dim] % samples, at[dim] // samples
    held = [((low <= sample) & (sample < high)).nonzero().squeeze(1) for low, high in limits]
    own, (low, high) = at[:, held[shards.rank]], limits[shards.rank]
    own[dim] = (sample + use * (high - low))[held[shards.rank]] - low
    steps = torch.tensor([here[n + 1 :].numel() for n in range(len(here))])
    numbered = (own * steps.unsqueeze(1)).sum(0).to(rows.device)
    return numbered, ShardedRows(shards, [len(positions) for positions in held]), Cut(shards, 0, held)


def feature_varies(x: Tensor) -> bool:
    """Whether a feature of ``x`` (..., features) is not the same in all rows."""
    rows = x.reshape(-1, x.shape[-1])
    return bool((rows.amax(0) > rows.amin(0)).any())
