"""The networks that the benchmarks time: each a model, a batch, its labels and a reference batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ts_lightning import ReferenceConfig, TargetSpaceConfig

BATCH = 100


@dataclass(frozen=True)
class Case:
    """One network and its data; ``rows`` is what "all rows" is compared with, None where all rows are the default."""

    build: Callable[[], nn.Module]
    x: tuple[int, ...]
    classes: int
    rows: tuple[str, ...] = ("auto",)

    def data(self) -> tuple[Tensor, Tensor, Tensor]:
        """Batch (100, ...), labels (100,), reference batch (100, ...)."""
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(BATCH, *self.x, generator=generator)
        y = torch.randint(self.classes, (BATCH,), generator=generator)
        return x, y, torch.rand(BATCH, *self.x, generator=generator)

    def config(self, rows: str) -> TargetSpaceConfig:
        """The defaults, with this many rows."""
        return TargetSpaceConfig(reference=ReferenceConfig(size=BATCH, rows=rows))


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


CASES = {
    "two_spirals": Case(lambda: mlp(4, 2, 12, 2), (2,), 2),
    "cnn": Case(paper_cnn, (3, 32, 32), 10, ("auto", "all")),
    "mlp512": Case(lambda: mlp(10, 784, 512, 10), (784,), 10),
}
