"""Graph networks of PyTorch Geometric on a random graph with 40 features, and clouds of points."""

# ruff: noqa: D102
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn

from benchmarks.zoo.example import Example

NODES, FEATURES, WIDTH, CLASSES = 24, 40, 16, 3


def edges() -> Tensor:
    ring = torch.arange(NODES)
    return torch.cat([torch.stack([ring, (5 * ring + 1) % NODES]), torch.stack([ring, (ring + 1) % NODES])], 1)


class Network(nn.Module):
    """Two convolutions on a graph; ``extra`` are arguments that both are given behind features and edges."""

    def __init__(self, make: Callable[[int, int], nn.Module], extra: tuple[Any, ...] = ()) -> None:
        super().__init__()
        self.first, self.second, self.extra = make(FEATURES, WIDTH), make(WIDTH, CLASSES), extra

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x, edges, *self.extra))
        found: Tensor = self.second(hidden, edges, *self.extra)
        return found


def graph(make: Callable[[int, int], nn.Module], *extra: Any) -> Callable[[], Example]:
    return lambda: Example(Network(make, extra), (torch.randn(NODES, FEATURES), edges()))


def mlp(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs))


def within(positions: Tensor, molecules: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of atoms of a molecule, and their distances."""
    pairs = (
        ((molecules.unsqueeze(0) == molecules.unsqueeze(1)) & ~torch.eye(len(molecules), dtype=torch.bool)).nonzero().T
    )
    return pairs, (positions[pairs[0]] - positions[pairs[1]]).norm(dim=1)


class SchNet(nn.Module):
    """Energies of two molecules."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = pyg.SchNet(16, 16, 2, 10, interaction_graph=within)

    def forward(self, z: Tensor, positions: Tensor) -> Tensor:
        found: Tensor = self.inner(z, positions, torch.arange(2).repeat_interleave(6))
        return found


class Pooled(nn.Module):
    """Graphs that shrink: which nodes stay depends on weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.last = (
            pyg.GCNConv(FEATURES, WIDTH),
            pyg.TopKPooling(WIDTH),
            pyg.GCNConv(WIDTH, CLASSES),
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.first(x, edges).relu()
        x, edges, *_ = self.pool(x, edges)
        found: Tensor = self.last(x, edges)
        return found


class Hetero(nn.Module):
    """Two kinds of nodes."""

    def __init__(self) -> None:
        super().__init__()
        ways = {("a", "to", "b"): pyg.SAGEConv((-1, -1), WIDTH), ("b", "to", "a"): pyg.SAGEConv((-1, -1), WIDTH)}
        self.inner, self.readout = pyg.HeteroConv(ways), pyg.Linear(WIDTH, CLASSES)

    def forward(self, a: Tensor, b: Tensor, edges: Tensor) -> Tensor:
        found = self.inner({"a": a, "b": b}, {("a", "to", "b"): edges, ("b", "to", "a"): edges.flip(0)})
        return torch.cat([self.readout(x.relu()) for x in found.values()])


def hetero() -> Example:
    model, arguments = Hetero(), (torch.randn(NODES, FEATURES), torch.randn(NODES, FEATURES), edges())
    model(*arguments)
    return Example(model, arguments)


KINDS = torch.arange(2 * NODES) % 3

MODELS: dict[str, Callable[[], Example]] = {
    "GCN": graph(pyg.GCNConv),
    "GAT": graph(pyg.GATConv),
    "GAT, two heads": graph(lambda i, o: pyg.GATConv(i, o, heads=2, concat=False)),
    "GATv2": graph(pyg.GATv2Conv),
    "SAGE": graph(pyg.SAGEConv),
    "GIN": graph(lambda i, o: pyg.GINConv(mlp(i, o), train_eps=True)),
    "graph transformer": graph(pyg.TransformerConv),
    "edge convolution": graph(lambda i, o: pyg.EdgeConv(mlp(2 * i, o))),
    "PNA": graph(lambda i, o: pyg.PNAConv(i, o, ["mean", "max"], ["identity"], torch.tensor([0, 4, 20]))),
    "Chebyshev": graph(lambda i, o: pyg.ChebConv(i, o, 3)),
    "ARMA": graph(lambda i, o: pyg.ARMAConv(i, o, num_stacks=2, num_layers=2, shared_weights=True)),
    "APPNP": lambda: Example(
        pyg.Sequential("x, e", [(mlp(FEATURES, CLASSES), "x -> x"), (pyg.APPNP(3, 0.1), "x, e -> x")]),
        (torch.randn(NODES, FEATURES), edges()),
    ),
    "gated graph": lambda: Example(pyg.GatedGraphConv(FEATURES, 2), (torch.randn(NODES, FEATURES), edges())),
    "relational GCN": graph(lambda i, o: pyg.RGCNConv(i, o, 3), KINDS),
    "GraphGPS": lambda: Example(
        pyg.Sequential(
            "x, e",
            [
                (nn.Linear(FEATURES, WIDTH), "x -> x"),
                (pyg.GPSConv(WIDTH, pyg.GCNConv(WIDTH, WIDTH), 2), "x, e -> x"),
            ],
        ),
        (torch.randn(NODES, FEATURES), edges()),
    ),
    "SchNet": lambda: Example(SchNet(), (torch.randint(1, 9, (12,)), torch.randn(12, 3))),
    "pooled graph": lambda: Example(Pooled(), (torch.randn(NODES, FEATURES), edges())),
    "graph U-Net": lambda: Example(pyg.GraphUNet(FEATURES, WIDTH, CLASSES, 2), (torch.randn(NODES, FEATURES), edges())),
    "heterogeneous SAGE": hetero,
}
