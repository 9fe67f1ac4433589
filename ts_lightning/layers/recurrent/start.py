"""Targets of a recurrent layer to start from: those that reproduce given weights, and orthogonal weights to reproduce.

The states in A follow from the targets T, so that what gives W0 back, T = A (W0 + (A'A)^-1 R W0), is an equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ts_lightning.layers.recurrent.sequences import Sequences
from ts_lightning.layers.reproduce import pseudo_inverse, reproduce_correction
from ts_lightning.ridge.moments import matrix_moments
from ts_lightning.ridge.primal import Block
from ts_lightning.ridge.system import RidgeSolver

_ROUNDS = 100  # of the fixed point, in either way
_KEPT = 8  # rounds that the next one is chosen by
_SETTLED = 1e-12  # relative change
_NEW = 1e-20  # squared share of a change that is none of the others'
_DIVERGED = 1e100  # norm of A


class Recurrence(Protocol):
    """What a start needs to know of a recurrent layer (``layer.py``).

    Attributes:
        hidden: the size of the state.
        inputs: the size of the input at a step.
        parameters: the module's parameters that W stands for.
        solver: the ridge solver.
    """

    hidden: int
    inputs: int
    parameters: list[nn.Parameter]
    solver: RidgeSolver

    @property
    def blocks(self) -> Sequence[Block]:
        """The (rows, columns) of W that are solved for."""

    def pack(self, w: Tensor) -> list[Tensor]:
        """The values of the parameters for W (inputs + 1 + hidden, gates x hidden)."""

    def unpack(self, values: Sequence[Tensor]) -> Tensor:
        """W for values of the parameters."""

    def run(self, x: Sequences, values: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs and final states of the layer with these values of its parameters."""

    def matrix(self, x: Sequences, h: Tensor) -> Tensor:
        """A, for the outputs h of a run."""


def reproduce(layer: Recurrence, x: Sequences, values: list[Tensor], damping: float) -> tuple[Tensor, int, int]:
    """Targets whose solution is ``values``: exactly where every block's A has full column rank.

    They are the pre-activations of a real run of weights that are larger by as much as the ridge shrinks them, which
    are found by repetition (one round, and no more than about right, where there is damping). Where that does not
    settle, because the ridge is large for the layer, the last step of every sequence takes all of the correction: no
    state depends on it. Where there are too few of these, repetition is accelerated.

    Args:
        layer: the layer.
        x: what it is solved from, in float64.
        values: of its parameters, in float64.
        damping: how much of the ridge is added to A'A where the ridge's shrinkage is made up for.

    Returns:
        The targets, and the rank of A and its columns, of the block that lacks most.
    """
    found = _repeated(layer, x, values, damping, None)
    if found is None:
        at_the_end = _at_the_end(layer, x, values)
        _, rank, columns = at_the_end
        found = at_the_end if rank == columns else _repeated(layer, x, values, damping, _FixedPoint()) or at_the_end
    return found


def _repeated(
    layer: Recurrence, x: Sequences, values: list[Tensor], damping: float, sought: _FixedPoint | None
) -> tuple[Tensor, int, int] | None:
    """What :func:`reproduce` returns, by repetition, plain or accelerated; None where that does not settle."""
    larger = w0 = layer.unpack(values)
    for _ in range(1 if damping > 0 else _ROUNDS):
        a = layer.matrix(x, layer.run(x, layer.pack(larger))[0])
        if not float(a.norm()) < _DIVERGED:
            return None
        correction, rank, columns = _correction(layer, a, w0, damping)
        change = w0 + correction - larger
        if damping > 0 or float(change.norm()) <= _SETTLED * float((larger + change).norm()):
            return _targets(x, a @ (w0 + correction)), rank, columns
        larger = w0 + correction if sought is None else sought.next(larger, change)
    return None


class _FixedPoint:
    """Anderson's acceleration of x <- x + change(x): to where the change would be least, judged by those seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def next(self, x: Tensor, change: Tensor) -> Tensor:
        """Where to go from ``x``."""
        self.seen = [(x, change), *self.seen[:_KEPT]]
        there, left = x + change, change
        pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        # Gram-Schmidt, the newest first, by sums that give the same bits wherever memory lies
        for (x1, change1), (x0, change0) in zip(self.seen, self.seen[1:], strict=False):
            turn, move = change1 - change0, x1 - x0 + change1 - change0
            size = (turn * turn).sum()
            for other, its_move, square in pairs:
                share = (other * turn).sum() / square
                turn, move = turn - share * other, move - share * its_move
            square = (turn * turn).sum()
            if square > _NEW * size:
                pairs.append((turn, move, square))
                share = (turn * left).sum() / square
                left, there = left - share * turn, there - share * move
        return there


def _correction(layer: Recurrence, a: Tensor, w0: Tensor, damping: float) -> tuple[Tensor, int, int]:
    """(A'A + damping R)^-1 R W0 for the rows ``a``, and rank and columns of the block that lacks most."""
    out, found = torch.zeros_like(w0), []
    for inputs, outputs in layer.blocks:
        b, w = a[:, inputs], w0[inputs, outputs]
        out[inputs, outputs], rank = reproduce_correction(
            b.mT @ b, b.sum(0), w, layer.solver.of(inputs), len(b), damping
        )
        found.append((rank, b.shape[1]))
    return out, *_least(found)


def _at_the_end(layer: Recurrence, x: Sequences, values: list[Tensor]) -> tuple[Tensor, int, int]:
    """T = A W0 of the real run of ``values``, and at the last steps E with A'E = R W0."""
    w0 = layer.unpack(values)
    a = layer.matrix(x, layer.run(x, values)[0])
    last = x.layout.last(torch.arange(len(a), device=a.device).view(x.shape[:-1]))
    targets, found = a @ w0, []
    for inputs, outputs in layer.blocks:
        b, end = a[:, inputs], a[last, inputs]
        ridge = _ridge(layer.solver.of(inputs), b)
        inverse, rank = pseudo_inverse(end.mT @ end, ridge.unsqueeze(-1) * w0[inputs, outputs], len(last))
        targets[last, outputs] += end @ inverse
        found.append((rank, b.shape[1]))
    return _targets(x, targets), *_least(found)


def _ridge(solver: RidgeSolver, a: Tensor) -> Tensor:
    """The diagonal of R for ``a`` (N, d)."""
    return solver.primal(lambda dtype: matrix_moments(a.to(dtype)), len(a), torch.float64).diagonal()


def _targets(x: Sequences, rows: Tensor) -> Tensor:
    """Rows of targets in the layout."""
    return rows.view(*x.shape[:-1], -1)


def _least(found: list[tuple[int, int]]) -> tuple[int, int]:
    """The (rank, columns) of the block that lacks most."""
    return min(found, key=lambda pair: pair[0] - pair[1])


def orthogonal(layer: Recurrence, x: Sequences, std: float, generator: torch.Generator) -> list[Tensor]:
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
