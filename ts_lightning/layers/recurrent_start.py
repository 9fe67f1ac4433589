"""Targets of a recurrent layer to start from: those that reproduce given weights, and orthogonal weights to reproduce.

The states in A follow from the targets T, so that what gives W0 back, T = A (W0 + (A'A)^-1 R W0), is an equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ts_lightning.layers.base import pseudo_inverse, reproduce_correction
from ts_lightning.layers.sequences import Sequences
from ts_lightning.ridge import matrix_moments

if TYPE_CHECKING:
    from ts_lightning.layers.recurrent import RecurrentLayer

_ROUNDS = 100  # of the fixed point
_SETTLED = 1e-13  # its relative change


def reproduce(layer: RecurrentLayer, x: Sequences, values: list[Tensor], damping: float) -> tuple[Tensor, int, int]:
    """Targets whose solution is ``values``: exactly where every system's A has full column rank.

    They are the pre-activations of a real run of weights that are larger by as much as the ridge shrinks them, which
    are found by repetition (one round, and no more than about right, where there is damping). Where that does not
    settle, because the ridge is large for the layer, the last step of every sequence takes all of the correction: no
    state depends on it.

    Args:
        layer: the layer, its rows fixed.
        x: its input, in float64.
        values: of its parameters, in float64.
        damping: how much of the ridge is added to A'A where the ridge's shrinkage is made up for.

    Returns:
        The targets, the least rank of a system's A and that system's columns.
    """
    w0 = layer.unpack(values)
    larger = w0
    for _ in range(1 if damping > 0 else _ROUNDS):
        systems = layer.systems(x, layer.run(x, layer.pack(larger))[0])
        if not all(a.isfinite().all() for a in systems):
            break
        found = [_correction(layer, a, w, damping) for a, w in zip(systems, w0, strict=True)]
        previous, larger = larger, [w + correction for w, (correction, _) in zip(w0, found, strict=True)]
        change = max(
            float((w - old).norm() / w.norm().clamp_min(1e-300)) for w, old in zip(larger, previous, strict=True)
        )
        if damping > 0 or change < _SETTLED:
            return _joined(x, systems, larger), *_least(systems, [rank for _, rank in found])
    return _at_the_end(layer, x, values)


def _change(new: Tensor, old: Tensor) -> float:
    return float((new - old).norm() / new.norm().clamp_min(1e-300))


def _correction(layer: RecurrentLayer, a: Tensor, w0: Tensor, damping: float) -> tuple[Tensor, int]:
    """(A'A + damping R)^-1 R W0 over the solved rows of ``a``, and the rank of A."""
    a = a if layer.rows is None else a[layer.rows]
    return reproduce_correction(a.mT @ a, a.sum(0), w0, layer.solver, a.shape[0], damping)


def _ridge(layer: RecurrentLayer, a: Tensor) -> Tensor:
    """The diagonal of R over the solved rows of ``a``, (d,)."""
    a = a if layer.rows is None else a[layer.rows]
    return layer.solver.primal(lambda dtype: matrix_moments(a.to(dtype)), len(a), torch.float64).diagonal()


def _at_the_end(layer: RecurrentLayer, x: Sequences, values: list[Tensor]) -> tuple[Tensor, int, int]:
    """T = A W0 of the real run of ``values``, and at the last steps E with A'E = R W0."""
    w0 = layer.unpack(values)
    systems = layer.systems(x, layer.run(x, values)[0])
    index = torch.arange(x.shape[:-1].numel(), device=x.data.device)
    last = x.layout.last(index.view(x.shape[:-1]))
    if layer.rows is not None:
        last = last[torch.isin(last, layer.rows)]
    targets, ranks = [], []
    for a, w in zip(systems, w0, strict=True):
        inverse, rank = pseudo_inverse(a[last].mT @ a[last], _ridge(layer, a).unsqueeze(-1) * w, len(last))
        targets.append((a @ w).index_add_(0, last, a[last] @ inverse))
        ranks.append(rank)
    return torch.cat(targets, -1).view(*x.shape[:-1], -1), *_least(systems, ranks)


def _joined(x: Sequences, systems: Sequence[Tensor], solutions: Sequence[Tensor]) -> Tensor:
    """The targets A W of all systems, in the layout."""
    z = torch.cat([a @ w for a, w in zip(systems, solutions, strict=True)], -1)
    return z.view(*x.shape[:-1], -1)


def _least(systems: Sequence[Tensor], ranks: Sequence[int]) -> tuple[int, int]:
    """The rank and columns of the system that lacks most."""
    _, rank, columns = min((rank - a.shape[-1], rank, a.shape[-1]) for a, rank in zip(systems, ranks, strict=True))
    return rank, columns


def orthogonal(layer: RecurrentLayer, x: Sequences, std: float, generator: torch.Generator) -> list[Tensor]:
    """Weights and biases: every gate's input and recurrent weight orthogonal, the former rescaled to ``std``.

    Args:
        layer: the layer.
        x: its input, in float64.
        std: standard deviation of what the inputs contribute to the pre-activations.
        generator: where the weights are drawn from.
    """
    empty = [w.new_zeros(w.shape, dtype=torch.float64) for w in layer.parameters]
    values = layer.pack([torch.zeros_like(w) for w in layer.unpack(empty)])
    for value, rows in ((values[0], x.data.reshape(-1, layer.inputs)), (values[1], None)):
        for gate in torch.split(value, layer.hidden):
            drawn = nn.init.orthogonal_(torch.empty(gate.shape, dtype=torch.float64), generator=generator)
            gate.copy_(drawn)
            spread = 0.0 if rows is None else float((rows @ gate.mT).std(correction=0))
            gate.mul_(std / spread if spread > 0 else 1.0)
    return values
