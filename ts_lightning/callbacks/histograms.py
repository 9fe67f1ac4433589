"""Histograms of a target space's targets and weights, over all processes that share them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ts_lightning.engine.space import TargetSpace
from ts_lightning.ridge.processes import Shards

_BINS = 64
_MOST = 2**16  # entries of a tensor that are counted, evenly spaced; more would cost more and show the same

#: counts (bins,) and edges (bins + 1,), on the CPU
Histogram = tuple[Tensor, Tensor]


def histograms(space: TargetSpace) -> dict[tuple[str, str], Histogram]:
    """Histograms of each layer's targets and weights.

    Call it in all processes that share the reference batch; each gets the same histograms.

    Returns:
        By ``("targets", layer)``, in units of the layer's outputs, and ``("weights", layer)``, biases included.
    """
    targets = [_sample([space.targets[layer.name]]) * layer.unit for layer in space.layers]
    weights = [_sample(layer.parameters) for layer in space.layers]
    names = [layer.name for layer in space.layers]
    found = [*_histograms(targets, space.shards), *_histograms(weights, None)]
    return dict(zip([*(("targets", n) for n in names), *(("weights", n) for n in names)], found, strict=True))


def _sample(tensors: Sequence[Tensor]) -> Tensor:
    """Evenly spaced entries of the tensors, at most about :data:`_MOST`, as one vector (entries,) in float32."""
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return flat[:: max(1, len(flat) // _MOST)].float()


def _histograms(values: Sequence[Tensor], shards: Shards | None) -> list[Histogram]:
    device = values[0].device
    limits = torch.stack([torch.stack([-part.min(), part.max()]) if len(part) else _nothing(device) for part in values])
    if shards is not None:
        limits = torch.stack(shards.gather([1] * shards.ranks, limits.unsqueeze(0))).amax((0, 1))
    counts, edges = [], []
    for part, (minus_low, high) in zip(values, limits.tolist(), strict=True):
        low = -minus_low
        if low == high:
            low, high = low - 0.5, high + 0.5
        # on the CPU, where it is deterministic
        counts.append(torch.histc(part.cpu(), _BINS, low, high))
        edges.append(torch.linspace(low, high, _BINS + 1))
    whole = torch.stack(counts)
    if shards is not None:
        whole = whole.to(device)
        shards.sum(whole)
    return list(zip(whole.cpu(), edges, strict=True))


def _nothing(device: torch.device) -> Tensor:
    return torch.full((2,), -torch.inf, device=device)
