"""Targets of a recurrent layer to start from: those that reproduce given weights, and orthogonal weights to reproduce.

The states in A follow from the targets T, so that what gives W0 back, T = A (W0 + (A'A)^-1 R W0), is an equation.
"""

from __future__ import annotations

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
    """Targets whose solution is ``values``: exactly where every block's A has full column rank.

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
        The targets, and the rank of A and its columns, of the block that lacks most.
    """
    w0 = layer.unpack(values)
    larger = w0
    for _ in range(1 if damping > 0 else _ROUNDS):
        a = layer.matrix(x, layer.run(x, layer.pack(larger))[0])
        if not a.isfinite().all():
            break
        correction, rank, columns = _correction(layer, a, w0, damping)
        previous, larger = larger, w0 + correction
        if damping > 0 or _change(larger, previous) < _SETTLED:
            return _targets(x, a @ larger), rank, columns
    return _at_the_end(layer, x, values)


def _change(new: Tensor, old: Tensor) -> float:
    return float((new - old).norm() / new.norm().clamp_min(1e-300))


def _correction(layer: RecurrentLayer, a: Tensor, w0: Tensor, damping: float) -> tuple[Tensor, int, int]:
    """(A'A + damping R)^-1 R W0 over the solved rows of ``a``, and rank and columns of the block that lacks most."""
    a = a if layer.rows is None else a[layer.rows]
    out, found = torch.zeros_like(w0), []
    for inputs, outputs in layer.blocks:
        b, w = a[:, inputs], w0[inputs, outputs]
        out[inputs, outputs], rank = reproduce_correction(b.mT @ b, b.sum(0), w, layer.solver, len(b), damping)
        found.append((rank, b.shape[1]))
    return out, *_least(found)


def _at_the_end(layer: RecurrentLayer, x: Sequences, values: list[Tensor]) -> tuple[Tensor, int, int]:
    """T = A W0 of the real run of ``values``, and at the last steps E with A'E = R W0."""
    w0 = layer.unpack(values)
    a = layer.matrix(x, layer.run(x, values)[0])
    last = x.layout.last(torch.arange(len(a), device=a.device).view(x.shape[:-1]))
    targets, found = a @ w0, []
    if layer.rows is not None:
        last, solved = last[torch.isin(last, layer.rows)], a[layer.rows]
    else:
        solved = a
    for inputs, outputs in layer.blocks:
        b, end = solved[:, inputs], a[last, inputs]
        ridge = _ridge(layer, b)
        inverse, rank = pseudo_inverse(end.mT @ end, ridge.unsqueeze(-1) * w0[inputs, outputs], len(last))
        targets[last, outputs] += end @ inverse
        found.append((rank, b.shape[1]))
    return _targets(x, targets), *_least(found)


def _ridge(layer: RecurrentLayer, a: Tensor) -> Tensor:
    """The diagonal of R for ``a`` (N, d)."""
    return layer.solver.primal(lambda dtype: matrix_moments(a.to(dtype)), len(a), torch.float64).diagonal()


def _targets(x: Sequences, rows: Tensor) -> Tensor:
    """Rows of targets in the layout."""
    return rows.view(*x.shape[:-1], -1)


def _least(found: list[tuple[int, int]]) -> tuple[int, int]:
    """The (rank, columns) of the block that lacks most."""
    return min(found, key=lambda pair: pair[0] - pair[1])


def orthogonal(layer: RecurrentLayer, x: Sequences, std: float, generator: torch.Generator) -> list[Tensor]:
    """Weights and biases: every gate's input and recurrent weight orthogonal, the former rescaled to ``std``.

    Args:
        layer: the layer.
        x: its input, in float64.
        std: standard deviation of what the inputs contribute to the pre-activations.
        generator: where the weights are drawn from.
    """
    empty = [w.new_zeros(w.shape, dtype=torch.float64) for w in layer.parameters]
    values = layer.pack(torch.zeros_like(layer.unpack(empty)))
    for value, rows in ((values[0], x.data.reshape(-1, layer.inputs)), (values[1], None)):
        for gate in torch.split(value, layer.hidden):
            drawn = nn.init.orthogonal_(torch.empty(gate.shape, dtype=torch.float64), generator=generator)
            gate.copy_(drawn)
            spread = 0.0 if rows is None else float((rows @ gate.mT).std(correction=0))
            gate.mul_(std / spread if spread > 0 else 1.0)
    return values
