"""What sharing a reference batch sends and computes, in formulas: a layer's messages, multiplications and seconds.

A layer is solved from N rows, spread over R processes, with d inputs (the bias among them) and m outputs. Numbers that
a process puts into a collective, in float32 of four bytes:

============================ ============================================ ===================================
layer                        solve                                        pull-back
============================ ============================================ ===================================
N >= d (primal)              all-reduce: triangle(d) + d + d m            all-reduce: d m
N < d (dual)                 all-gather: ceil(N / R) (d + m)              all-gather: ceil(N / R) m
last layer                   as above                                     none
batch norm of C channels     all-gather: 2 C + 1                          all-reduce: 2 C
other trained parameters     none                                         all-reduce: their number, once for all
replicated (shard=False)     broadcast: d m of all layers, one message    none
============================ ============================================ ===================================

triangle(d) is d (d + 1) / 2 and what blocks of 64 rows have above the diagonal, up to 32 d. A convolution whose patches
are gathered (sampled rows, the default) is applied to the reference batch with the solved weights, so that every
process has its own dL/dW: its pull-back is an all-reduce of d m in the dual and the last layer, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BYTES = 4
_SENT = 64  # rows in a block of the triangle
_COMPUTED = 192  # the same where it is computed, if d is above two of them

Message = tuple[str, int]  # the collective and how many bytes a process puts into it


@dataclass(frozen=True)
class Layer:
    """One solved layer.

    Args:
        rows: N, in all processes.
        inputs: d.
        outputs: m.
        held: rows of the process that has most of them.
        places: where the layer is applied to the reference batch, in all processes: N, or more where rows are sampled.
        first: whether nothing before it is trained.
        last: whether nothing after it is solved.
        gathered: whether it is a convolution whose patches are gathered.
    """

    rows: int
    inputs: int
    outputs: int
    held: int
    places: int
    first: bool = False
    last: bool = False
    gathered: bool = False

    @property
    def dual(self) -> bool:
        """Whether there are fewer rows than inputs."""
        return self.rows < self.inputs


def dense(rows: int, width: int, ranks: int) -> Layer:
    """A dense layer within a network, as wide as the one before."""
    return Layer(rows, width + 1, width, math.ceil(rows / ranks), rows)


def triangle(d: int, block: int = _SENT) -> int:
    """Numbers in the lower triangle of a (d, d) matrix by blocks of rows, each as wide as its last row."""
    whole, rest = divmod(d, block)
    return block * block * whole * (whole + 1) // 2 + rest * d


def solve_messages(layer: Layer) -> list[Message]:
    """What a process sends for a layer's solve."""
    d, m = layer.inputs, layer.outputs
    if layer.dual:
        return [("all_gather", BYTES * layer.held * (d + m))]
    return [("all_reduce", BYTES * (triangle(d) + d + d * m))]


def pullback_messages(layer: Layer) -> list[Message]:
    """What a process sends for a layer's pull-back."""
    if layer.gathered or not (layer.dual or layer.last):
        return [("all_reduce", BYTES * layer.inputs * layer.outputs)]
    return [] if layer.last else [("all_gather", BYTES * layer.held * layer.outputs)]


def network_messages(
    layers: Sequence[Layer], norms: Sequence[int], others: int, shard: bool
) -> tuple[list[Message], list[Message]]:
    """What a process sends for a network's solve and pull-back.

    Args:
        layers: the solved layers.
        norms: the channels of each batch norm.
        others: the number of trained parameters that are not solved.
        shard: whether the reference batch is shared.
    """
    if not shard:
        return [("broadcast", BYTES * sum(layer.inputs * layer.outputs for layer in layers))], []
    solve = [message for layer in layers for message in solve_messages(layer)]
    solve += [("all_gather", BYTES * (2 * channels + 1)) for channels in norms]
    pullback = [message for layer in layers for message in pullback_messages(layer)]
    pullback += [("all_reduce", BYTES * 2 * channels) for channels in norms]
    return solve, pullback + [("all_reduce", BYTES * others)] * bool(others)


@dataclass(frozen=True)
class Machine:
    """Rates of a machine, in the units in which they are stated.

    Args:
        matmul: TFLOP/s of float32 matrix products without TF32.
        factor: TFLOP/s of Cholesky factors and triangular solves.
        panel: microseconds that 128 columns of a Cholesky factor take at least, one after the other.
        calls: microseconds of calling a layer's operators, for solve and pull-back each.
        node: processes in a node.
        within: GB/s of a process within a node.
        between: GB/s of a process between nodes.
        latency: microseconds of a message within a node.
        far: microseconds that a message takes more between nodes.
    """

    matmul: float = 40.0
    factor: float = 8.0
    panel: float = 20.0
    calls: float = 100.0
    node: int = 8
    within: float = 300.0
    between: float = 25.0
    latency: float = 10.0
    far: float = 20.0

    def message_seconds(self, message: Message, ranks: int) -> float:
        """A ring within the node; between nodes every process of a node carries its share."""
        if ranks == 1:
            return 0.0
        kind, size = message
        near = min(ranks, self.node)
        nodes = ranks // near
        if kind == "all_reduce":
            inside, outside = 2 * (near - 1) / near * size, 2 * (nodes - 1) / nodes * size / near
        elif kind == "all_gather":
            inside, outside = (near - 1) * nodes * size, (nodes - 1) * size
        else:
            inside, outside = size, size / near * (nodes > 1)
        latency = self.latency + self.far * (nodes > 1)
        return inside / (1e9 * self.within) + outside / (1e9 * self.between) + 1e-6 * latency

    def seconds(self, products: float, factors: float, columns: int) -> float:
        """So many multiplications in matrix products, and with and for a Cholesky factor of so many columns."""
        return 2e-12 * (products / self.matmul + factors / self.factor) + 1e-6 * (
            self.panel * columns / 128 + self.calls
        )


def solve_work(layer: Layer) -> tuple[float, float, int]:
    """A process's multiplications in products and with the factor, and the factor's columns, of a layer's solve."""
    n, d, m, own = layer.rows, layer.inputs, layer.outputs, layer.held
    applied = 0 if layer.dual and not layer.gathered else own * layer.places / n * d * m
    size, length = (n, d) if layer.dual else (d, own)
    gram = length * (triangle(size, _COMPUTED) if size > 2 * _COMPUTED else size * size)
    return gram + (n if layer.dual else own) * d * m + applied, size**3 / 6 + size * size * m, size


def pullback_work(layer: Layer) -> tuple[float, float, int]:
    """The same of its pull-back, whose factor is there."""
    n, d, m, own = layer.rows, layer.inputs, layer.outputs, layer.held
    size = n if layer.dual else d
    products = size * d * m if layer.dual else own * d * m  # A dW or A V
    if not layer.first:
        products += own * d * m  # r dW' or (T - A W) V'
        products += own * n * (d + 2 * m) if layer.dual else 0  # (r P' + P r') A
    if layer.gathered or not layer.dual:  # the reference batch's own, which in the dual takes part in the N x N above
        products += own * layer.places / n * d * m * (2 - layer.first - layer.last)
    return products, size * size * m, 0


@dataclass(frozen=True)
class Cost:
    """Seconds of a process."""

    compute: float
    sent: float

    @property
    def total(self) -> float:
        """Both, one after the other."""
        return self.compute + self.sent

    @property
    def share(self) -> float:
        """Of communication."""
        return self.sent / self.total


def layer_cost(layer: Layer, ranks: int, machine: Machine, shard: bool = True) -> Cost:
    """Solve and pull-back of one layer; replicated, the latency of the one broadcast is left to the other layers."""
    compute = machine.seconds(*solve_work(layer)) + machine.seconds(*pullback_work(layer))
    if shard:
        messages = solve_messages(layer) + pullback_messages(layer)
        return Cost(compute, sum(machine.message_seconds(message, ranks) for message in messages))
    weights = ("broadcast", BYTES * layer.inputs * layer.outputs)
    latency = machine.message_seconds(("broadcast", 0), ranks)
    return Cost(compute, machine.message_seconds(weights, ranks) - latency)


def extrapolated(
    machine: Machine, ranks: Sequence[int], widths: Sequence[int], references: Sequence[int]
) -> Iterator[str]:
    """The Markdown table of one dense layer within a network over ranks, width and reference size."""
    several = [count for count in ranks if count > 1]
    heads = [f"{count} GPUs: shared, ms (sent) | replicated, ms (sent) | shared / replicated" for count in several]
    yield f"| width | rows | form | 1 GPU, ms | {' | '.join(heads)} |"
    yield "|---" * (4 + 3 * len(several)) + "|"
    for width in widths:
        for rows in references:
            alone = dense(rows, width, 1)
            cells = [f"{1e3 * layer_cost(alone, 1, machine).total:.3g}"]
            for count in several:
                shared = layer_cost(dense(rows, width, count), count, machine)
                replicated = layer_cost(alone, count, machine, shard=False)
                cells += [f"{1e3 * cost.total:.3g} ({cost.share:.0%})" for cost in (shared, replicated)]
                cells += [f"{shared.total / replicated.total:.2f}"]
            yield f"| {width:,} | {rows:,} | {'dual' if alone.dual else 'primal'} | {' | '.join(cells)} |"
