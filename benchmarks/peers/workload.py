"""A workload: a network, data in three splits, a batch size, a budget of steps, and levels of the validation metric.

The metric is a share of right answers, or R² where the answers are numbers; larger is better in both. Outputs of a
network are (samples, classes), (samples, classes, steps) where something is asked at several steps, or (samples, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_EVALUATED = 500  # samples at a time


@dataclass(frozen=True)
class Split:
    """Inputs and answers, samples first."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def part(self, start: int, stop: int) -> Split:
        """The samples from ``start`` to before ``stop``."""
        return Split(self.x[start:stop], self.y[start:stop])


@dataclass(frozen=True)
class Data:
    """What is trained on, what settings are chosen by, and what is reported."""

    train: Split
    validation: Split
    test: Split


@dataclass(frozen=True)
class Workload:
    """A problem with a budget.

    Args:
        name: on the command line and in the results' file.
        group: the section of the page that it belongs to.
        title: on the page.
        build: makes the network, its weights drawn from the global generator.
        data: reads the data, given the folder of data sets.
        steps: the budget.
        levels: of the validation metric, rising; times to the middle one are compared.
        activation: what weight-space starts are scaled for.
        batch: samples in a mini-batch.
        regression: whether answers are numbers.
        samples: in the training split, so that the page need not read the data.
    """

    name: str
    group: str
    title: str
    build: Callable[[], nn.Module]
    data: Callable[[Path], Data]
    steps: int
    levels: tuple[float, float, float]
    activation: Literal["tanh", "relu", "leaky_relu"] = "tanh"
    batch: int = 100
    regression: bool = False
    samples: int = field(kw_only=True)

    @property
    def epochs(self) -> float:
        """How often the budget goes through the training split."""
        return self.steps * min(self.batch, self.samples) / self.samples

    def loss(self, out: Tensor, y: Tensor) -> Tensor:
        """Cross entropy, or the mean square."""
        return functional.mse_loss(out.squeeze(1), y) if self.regression else functional.cross_entropy(out, y)

    @torch.no_grad()
    def score(self, model: nn.Module, split: Split) -> float:
        """The metric on a split, in evaluation mode; not a number where an output is none."""
        training = model.training
        model.eval()
        chunks = zip(*(torch.split(part, _EVALUATED) for part in (split.x, split.y)), strict=True)
        found = torch.cat([self._scored(model(x), y) for x, y in chunks])
        model.train(training)
        mean = float(found.mean())
        return 1 - mean / float(split.y.var(correction=0)) if self.regression else mean

    def _scored(self, out: Tensor, y: Tensor) -> Tensor:
        if self.regression:
            return (out.squeeze(1) - y).square()
        right = (out.argmax(1) == y).float()
        return torch.where(out.isfinite().all(1), right, torch.nan)


def batches(split: Split, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Mini-batches without end, each epoch in an order of its own, the same for every contender."""
    generator = torch.Generator().manual_seed(1000 + seed)
    size = min(size, len(split))
    while True:
        order = torch.randperm(len(split), generator=generator)
        for chosen in torch.split(order[: len(split) // size * size], size):
            yield split.x[chosen], split.y[chosen]


def measured_at(steps: int) -> list[int]:
    """The steps that the metric is measured at: ever further apart, and the last one."""
    shares = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
    return sorted({max(1, round(share * steps)) for share in shares})
