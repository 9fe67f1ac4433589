"""How far targets have come: what a learning rate may grow to.

Steps whose directions have nothing to do with each other lead about sqrt(k) times their length away in k steps. Targets
that have come further have been moved in one direction, and at a higher rate would have come there sooner.

Source: the step of DoG (Ivgi, Hinder, Carmon, ICML 2023), the distance from the start over the root of the sum of the
squared gradients so far. Gradients that are divided by their root mean square make that sum the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ts_lightning.engine.targets.target import Target


def mean_squares(*kinds: Mapping[Target, Tensor]) -> list[Tensor]:
    """For each kind of tensors of targets, as their gradients, the mean over layers of the mean squares, ().

    That of none is 0. They are over all processes that share the targets, in one message.
    """
    found = [(target, tensor) for kind in kinds for target, tensor in kind.items()]
    first = found[0][1]
    norms = torch._foreach_norm([tensor for _, tensor in found])
    sums = torch.stack([norm.to(first.device) for norm in norms]).square()
    counts = torch.tensor([target.numel() for target, _ in found]).to(sums)
    shards = next((target.shards for target, _ in found if target.shards is not None), None)
    if shards is not None:
        shards.sum(sums, counts)
    means = torch.split(sums / counts.clamp_min(1), [len(kind) for kind in kinds])
    # a finite gradient may have a square that is not
    return [(mean.sum() / max(len(mean), 1)).clamp_max(torch.finfo(sums.dtype).max) for mean in means]


@dataclass(frozen=True)
class Travel:
    """How far the targets of an optimizer have come.

    Args:
        distance: the largest root mean square so far of how far they were from their start, ().
        highest: the highest learning rate of theirs so far.
        growth: the factor, at least 1, by which they came further than without a direction, ().
    """

    distance: Tensor
    highest: float
    growth: Tensor

    @classmethod
    def behind(cls, states: Sequence[Mapping[str, Any]], come: Tensor, lr: float) -> Travel:
        """What is so before a step.

        Args:
            states: the optimizer's, of targets that have made steps.
            come: root mean square of how far all targets are from their start, ().
            lr: the highest of their learning rates in this step, at least 0; 0 where none makes one.
        """
        steps = 1 + max((int(state["step"]) for state in states), default=0)
        known = [state for state in states if "distance" in state]
        if known:
            newest = max(known, key=lambda state: int(state["step"]))
            come, lr = torch.maximum(newest["distance"].to(come), come), max(newest["highest_lr"], lr)
        further = come / (lr * steps**0.5) if lr > 0 else torch.ones_like(come)
        return cls(come, lr, further.clamp_min(1))
