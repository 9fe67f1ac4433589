"""Targets of a recurrent layer to start from: those that reproduce given weights, and orthogonal weights to reproduce.

The states in A follow from the targets T, so that what gives W0 back, T = A (W0 + (A'A)^-1 R W0), is an equation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ts_lightning.layers.recurrent.sequences import Sequences
from ts_lightning.layers.reproduce import least_solution, reproduce_correction
from ts_lightning.ridge.moments import matrix_moments
from ts_lightning.ridge.primal import Block
from ts_lightning.ridge.solve import solve
from ts_lightning.ridge.system import RidgeSolver

_ROUNDS = 100  # of the fixed point, twice as many where it is accelerated
_KEPT = 8  # rounds before the present one in the linear model of Anderson acceleration
_SETTLED = 1e-12  # relative change of W in a round
_EXACT = 1e-10  # relative error of the rows' pre-activations, far below what anybody sees
_IDLE = 5  # rounds
_NEW = 1e-20  # squared share of a change that is independent of the changes before
_DIVERGED = 1e100  # norm of A


class Recurrence(Protocol):
    """What a start needs to know of a recurrent layer (``layer.py``).

    Attributes:
        hidden: the size of a gate.
        inputs: the size of the input at a step.
        parameters: the module's parameters that W stands for.
        solver: the ridge solver.
    """

    hidden: int
    inputs: int
    parameters: list[nn.Parameter]
    solver: RidgeSolver

    @property
    def unit(self) -> float:
        """What a target of 1 stands for."""

    @property
    def blocks(self) -> Sequence[Block]:
        """The (rows, columns) of W that are solved for."""

    def pack(self, w: Tensor) -> list[Tensor]:
        """The values of the parameters for W (inputs + 1 + hidden, gates x hidden)."""

    def unpack(self, values: Sequence[Tensor]) -> Tensor:
        """W for values of the parameters."""

    def run(self, x: Sequences, values: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs and final states of the layer with these values of its parameters."""

    def states(self, x: Sequences, targets: Tensor) -> tuple[Tensor, ...]:
        """The states h (and c) at every step, of a cell with the pre-activations unit x targets."""

    def matrix(self, x: Sequences, h: Tensor) -> Tensor:
        """A, for the outputs h of a run."""


class Found(NamedTuple):
    """Targets, and how well the rows' inputs determine the weights that are solved from them.

    Attributes:
        targets: rows of targets, (N, gates x hidden).
        rank: of A, of the block that lacks most.
        columns: of this block.
    """

    targets: Tensor
    rank: int
    columns: int


def reproduce(layer: Recurrence, x: Sequences, values: list[Tensor], damping: float) -> tuple[Tensor, int, int]:
    """Targets whose solution is ``values``: exactly where every block's A has full column rank.

    They are the pre-activations of a real run of weights that are larger by as much as the ridge shrinks them. Three
    ways to find these are tried in turn until the solution of the targets is ``values`` on the rows; where none of them
    gets there, the nearest is taken:

    - by repetition, which converges where the ridge is small for the layer;
    - by a correction at the last step of every sequence alone, on which no state depends; exact where there are as many
      sequences as columns;
    - by repetition with Anderson's acceleration.

    With damping it is one round of repetition, which is about right.

    Args:
        layer: the layer.
        x: what it is solved from, in float64.
        values: of its parameters, in float64.
        damping: how much of the ridge is added to A'A where the ridge's shrinkage is made up for.

    Returns:
        The targets, and the rank of A and its columns, of the block that lacks most.
    """
    ways: list[Callable[[], Found | None]] = [
        lambda: _repeated(layer, x, values, damping, None),
        lambda: _at_the_end(layer, x, values),
        lambda: _repeated(layer, x, values, damping, _FixedPoint()),
    ]
    best: Found | None = None
    least = torch.inf
    for way in ways:
        found = way()
        if found is None:
            continue
        error = 0.0 if damping > 0 else _error(layer, x, found.targets, values)
        if error < least:
            best, least = found, error
        if least <= _EXACT:
            break
    assert best is not None, "the correction at the last steps is finite"
    return best.targets.view(*x.shape[:-1], -1), best.rank, best.columns


def _error(layer: Recurrence, x: Sequences, targets: Tensor, values: list[Tensor]) -> float:
    """||A (W - W0)|| / ||A W0|| for the solution W of ``targets``, in the states along these."""
    a = layer.matrix(x, layer.states(x, targets.view(*x.shape[:-1], -1) / layer.unit)[0])
    w0 = layer.unpack(values)
    w = solve(a, targets, layer.solver, layer.blocks)
    error = float((a @ (w - w0)).norm() / (a @ w0).norm().clamp_min(torch.finfo(torch.float64).tiny))
    return error if math.isfinite(error) else torch.inf


def _repeated(
    layer: Recurrence, x: Sequences, values: list[Tensor], damping: float, sought: _FixedPoint | None
) -> Found | None:
    """The targets of the round that changed least; None where A grows without bound."""
    larger = w0 = layer.unpack(values)
    best: Found | None = None
    least, idle = torch.inf, 0
    for _ in range(1 if damping > 0 else _ROUNDS if sought is None else 2 * _ROUNDS):
        a = layer.matrix(x, layer.run(x, layer.pack(larger))[0])
        if not float(a.norm()) < _DIVERGED:
            break
        correction, rank, columns = _correction(layer, a, w0, damping)
        change = w0 + correction - larger
        relative = float(change.norm()) / float((larger + change).norm())
        if best is None or relative < least:
            best, least, idle = Found(a @ (w0 + correction), rank, columns), relative, 0
        else:
            idle += 1
        # rounding has a floor of its own on every processor, at which a change only goes up and down
        if relative <= _SETTLED or (least <= _EXACT and idle >= _IDLE):
            break
        larger = w0 + correction if sought is None else sought.next(larger, change)
    return best


class _FixedPoint:
    """Anderson acceleration of x <- x + change(x): a step to where a linear model of the last changes is least."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def next(self, x: Tensor, change: Tensor) -> Tensor:
        """The next x."""
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


def _at_the_end(layer: Recurrence, x: Sequences, values: list[Tensor]) -> Found:
    """T = A W0 of the real run of ``values``, and at the last steps E with A'E = R W0."""
    w0 = layer.unpack(values)
    a = layer.matrix(x, layer.run(x, values)[0])
    last = x.layout.last(torch.arange(len(a), device=a.device).view(x.shape[:-1]))
    targets, found = a @ w0, []
    for inputs, outputs in layer.blocks:
        b, end = a[:, inputs], a[last, inputs]
        ridge = _ridge(layer.solver.of(inputs), b)
        correction, rank = least_solution(end, ridge.unsqueeze(-1) * w0[inputs, outputs], None, torch.float64)
        targets[last, outputs] += correction
        found.append((rank, b.shape[1]))
    return Found(targets, *_least(found))


def _ridge(solver: RidgeSolver, a: Tensor) -> Tensor:
    """The diagonal of R for ``a`` (N, d)."""
    return solver.primal(lambda dtype: matrix_moments(a.to(dtype)), len(a), torch.float64).diagonal()


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
