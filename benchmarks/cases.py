"""The networks that the benchmarks time: each a model, a batch, its labels and a reference batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from ts_lightning import ReferenceConfig, TargetSpaceConfig

BATCH = 100


@dataclass(frozen=True)
class Case:
    """One network and its data.

    Args:
        build: makes the network.
        x: shape of a sample.
        classes: number of labels.
        rows: the settings of ``reference.rows`` to compare.
        batch: samples in a batch and in the reference batch.
        reference: shape of a reference sample; None for that of a sample.
        labels: shape of a sample's labels.
        literal: whether the literal implementation, which loops over samples and steps, is timed too.
    """

    build: Callable[[], nn.Module]
    x: tuple[int, ...]
    classes: int
    rows: tuple[str, ...] = ("auto",)
    batch: int = BATCH
    reference: tuple[int, ...] | None = None
    labels: tuple[int, ...] = ()
    literal: bool = True

    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Batch, labels and reference batch, each (samples, ...)."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(self.batch, *self.x, generator=generator)
        y = torch.randint(self.classes, (self.batch, *self.labels), generator=generator)
        return x, y, torch.rand(self.batch, *(self.reference or self.x), generator=generator)

    def config(self, rows: str) -> TargetSpaceConfig:
        """The defaults, with this many rows."""
        return TargetSpaceConfig(reference=ReferenceConfig(size=self.batch, rows=rows))


def mlp(depth: int, inputs: int, width: int, outputs: int, activation: type[nn.Module] = nn.Tanh) -> nn.Module:
    """``depth`` dense layers with an activation between."""
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for i, o in pairwise(sizes):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1])


def paper_cnn(channels: int = 3, size: int = 32) -> nn.Module:
    """The paper's network for square images."""
    layers: list[nn.Module] = []
    inputs = channels
    for width in (32, 64, 128):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.MaxPool2d(2)]
        inputs = width
    layers += [nn.Flatten(), nn.Linear(128 * (size // 8) ** 2, 128), nn.LeakyReLU(0.2), nn.Linear(128, 10)]
    return nn.Sequential(*layers)


class Recurrent(nn.Module):
    """A recurrent layer, samples first, and a readout of every step (samples, classes, steps), or of the last one."""

    def __init__(self, cell: type[nn.RNNBase], inputs: int, hidden: int, *, last: bool) -> None:
        super().__init__()
        self.rnn = cell(inputs, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, 2)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        """The logits, classes in axis 1."""
        h = self.rnn(x)[0]
        return self.readout(h[:, -1] if self.last else h).movedim(-1, 1)


def recall(cell: type[nn.RNNBase]) -> Case:
    """Recall at delay 60, as far as cost goes: 110 steps of one bit, a label for each."""
    network = partial(Recurrent, cell, 1, 63, last=False)
    return Case(network, (110, 1), 2, ("auto", "all"), labels=(110,), literal=False)


CASES = {
    "two_spirals": Case(lambda: mlp(4, 2, 12, 2), (2,), 2),
    "cnn": Case(paper_cnn, (3, 32, 32), 10, ("auto", "all")),
    "mlp64": Case(lambda: mlp(30, 784, 64, 10), (784,), 10),
    "mlp512": Case(lambda: mlp(10, 784, 512, 10), (784,), 10),
    "recall_rnn": recall(nn.RNN),
    "recall_lstm": recall(nn.LSTM),
    "recall_gru": recall(nn.GRU),
    # embeddings of 500 words, and a shorter reference
    "imdb_lstm": Case(
        partial(Recurrent, nn.LSTM, 32, 100, last=True), (500, 32), 2, batch=40, reference=(60, 32), literal=False
    ),
}
