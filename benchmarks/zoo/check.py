"""What every model of the zoo is put through.

It converts by default; three steps of Adam have a finite loss; and with ``init="weights"`` no output changes, in
training and in eval mode, on inputs that are not in the reference batch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.zoo.example import Example, call, loss_of, outputs
from ts_lightning import TargetSpace, TargetSpaceConfig


class Found(NamedTuple):
    """What became of one model.

    Attributes:
        layers: how many are solved.
        reused: how many of them are used several times.
        share: of the trainable parameters that are solved.
        tables: the same share of embeddings and of weights tied to them.
        left: what stays in weight space, each as (kind, reason).
        losses: of three steps.
        changes: relative changes of the outputs, in training and in eval mode.
    """

    layers: int
    reused: int
    share: float
    tables: float
    left: list[tuple[str, str]]
    losses: list[float]
    changes: tuple[float, float]


def check(make: Callable[[], Example]) -> Found:
    """Put a model through all of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of frozen layers
        example = _made(make)
        space = TargetSpace(example.model, example.arguments)
        losses = _trained(space, example)
        changes = _changes(make)
    trainable = [p for p in example.model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trainable)
    tables = {
        id(p)
        for module in example.model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for p in module.parameters(recurse=False)
    }
    return Found(
        layers=len(space.layers),
        reused=sum(layer.reused for layer in space.layers),
        share=sum(p.numel() for layer in space.layers for p in layer.parameters) / count,
        tables=sum(p.numel() for p in trainable if id(p) in tables) / count,
        left=list(dict.fromkeys((left.kind, left.reason) for left in space.left)),
        losses=losses,
        changes=changes,
    )


def _made(make: Callable[[], Example], seed: int = 0) -> Example:
    torch.manual_seed(seed)
    return make()


def _trained(space: TargetSpace, example: Example) -> list[float]:
    """The losses of three steps of Adam."""
    optimizer = torch.optim.Adam(space.parameters(), 0.002)
    losses = []
    example.model.train()
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(example)
        loss.backward()
        space.pullback()
        optimizer.step()
        space.solve()
        losses.append(float(loss.detach()))
    return losses


def _changes(make: Callable[[], Example]) -> tuple[float, float]:
    """The relative changes of the outputs of a model that starts from its weights."""
    example, other = _made(make), _made(make, seed=1).arguments
    before = copy.deepcopy(example.model)
    TargetSpace(example.model, example.arguments, TargetSpaceConfig(init="weights"))
    changes = []
    for training in (True, False):
        old, new = (_run(model, other, training) for model in (before, example.model))
        changes.append(_relative(new, old))
    return changes[0], changes[1]


@torch.no_grad()
def _run(model: nn.Module, arguments: object, training: bool) -> list[Tensor]:
    torch.manual_seed(2)
    return outputs(copy.deepcopy(model).train(training), arguments)


def _relative(new: list[Tensor], old: list[Tensor]) -> float:
    if [t.shape for t in new] != [t.shape for t in old]:
        return float("inf")
    pairs = [(a[b.isfinite()].double(), b[b.isfinite()].double()) for a, b in zip(new, old, strict=True)]
    size = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5 / max(size, 1e-30)
