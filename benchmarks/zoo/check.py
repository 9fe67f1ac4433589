"""What every model of the zoo is put through.

It converts by default; three steps of Adam have a finite loss; and with ``init="weights"`` no output changes, in
training and in eval mode, on inputs that are not in the reference batch. Gradients are held against finite differences
for those models whose loss is smooth and whose forward runs in float64.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.zoo.example import Example, loss_of, outputs
from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.engine.running.batches import mapped


class Found(NamedTuple):
    """What became of one model.

    Attributes:
        layers: how many are solved.
        reused: how many of them are used several times.
        share: of the trainable parameters that are solved.
        tables: the same share of embeddings, with what is tied to them.
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

    def good(self, change: float) -> bool:
        """Whether losses are finite, and outputs change by no more than ``change``."""
        return all(map(math.isfinite, self.losses)) and max(self.changes) <= change


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
        reused=sum(layer.uses > 1 for layer in space.layers),
        share=sum(p.numel() for layer in space.layers for p in layer.parameters) / count,
        tables=sum(p.numel() for p in trainable if id(p) in tables) / count,
        left=list(dict.fromkeys((left.kind, left.reason) for left in space.left)),
        losses=losses,
        changes=changes,
    )


def gradient_error(make: Callable[[], Example], step: float = 1e-5) -> float:
    """How far a model's gradients are from what the loss does along a random direction, solves included, in float64.

    The difference of <gradient, direction> from a fourth-order difference of the loss, relative to the gradients' norm.
    """
    example = _made(make)
    arguments = _doubled(example.arguments)
    model = example.model.double().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of frozen layers
        space = TargetSpace(model, arguments, TargetSpaceConfig(ridge=0.3, step_scale=1.0))
    generator = torch.Generator().manual_seed(0)
    others = _doubled(_made(make, seed=1).arguments)

    def loss() -> Tensor:
        torch.manual_seed(2)
        return torch.stack([t.square().mean() for t in outputs(model, others) if t.requires_grad]).sum()

    with torch.no_grad():
        for target in space.targets.values():  # far from what layers can achieve, so that residuals matter
            target.add_(torch.randn(target.shape, generator=generator, dtype=target.dtype), alpha=0.3)
    space.solve()
    loss().backward()
    space.pullback()
    variables = [p for p in space.parameters() if p.grad is not None]
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in variables]
    pairs = list(zip(variables, directions, strict=True))
    predicted = sum(float((p.grad * d).sum()) for p, d in pairs if p.grad is not None)
    size = sum(float(p.grad.square().sum()) for p in variables if p.grad is not None) ** 0.5
    start, values = [p.detach().clone() for p in variables], {}
    for steps in (-2, -1, 1, 2):
        with torch.no_grad():
            for (variable, direction), before in zip(pairs, start, strict=True):
                variable.copy_(before + steps * step * direction)
        space.solve()
        values[steps] = float(loss().detach())
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * step)
    return abs(slope - predicted) / max(size, 1e-3)


def _doubled(arguments: Any) -> Any:
    """In float64."""
    return mapped(arguments, lambda t: t.double() if t.is_floating_point() else t)


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
    example, other = _made(make), _made(make, seed=1)
    before = copy.deepcopy(example.model)
    TargetSpace(example.model, example.arguments, TargetSpaceConfig(init="weights"))
    in_training, in_eval = (
        _relative(*(_run(other._replace(model=model), training) for model in (example.model, before)))
        for training in (True, False)
    )
    return in_training, in_eval


@torch.no_grad()
def _run(example: Example, training: bool) -> list[Tensor]:
    """The outputs of a copy, or the loss where a model in training mode gives nothing else."""
    torch.manual_seed(2)
    example = example._replace(model=copy.deepcopy(example.model).train(training))
    return outputs(example.model, example.arguments) if example.loss is None or not training else [loss_of(example)]


def _relative(new: list[Tensor], old: list[Tensor]) -> float:
    if [t.shape for t in new] != [t.shape for t in old]:
        return float("inf")
    pairs = [(a[b.isfinite()].double(), b[b.isfinite()].double()) for a, b in zip(new, old, strict=True)]
    size = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    return sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5 / max(size, 1e-30)
