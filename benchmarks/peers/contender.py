"""A contender: an optimizer in a space, the learning rates and options that are tuned, and how a step is made.

A *setting* is a learning rate ``lr`` and a value for each option. What a contender needs beside an optimizer (targets
to solve from, factors to gather) is in its :class:`Learner`, so that every contender is trained by the same loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.peers.workload import Data, Workload

Setting = Mapping[str, Any]
_WARM_UP = 0.05  # of the budget


def falling(steps: int) -> Callable[[int], float]:
    """The schedule: the share of a learning rate at each step of a budget."""
    warm = max(1, round(_WARM_UP * steps))

    def share(step: int) -> float:
        fallen = max(0.0, (step - warm) / max(1, steps - warm))
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, fallen)))

    return share


class Learner:
    """Makes the steps of a run, at learning rates that rise for a twentieth of the budget and fall as a cosine to 0.

    Args:
        optimizers: that train the model together.
        steps: the budget.
        pull: called between the backward pass and the optimizers' steps.
        solve: called behind the optimizers' steps.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        steps: int,
        pull: Callable[[], object] | None = None,
        solve: Callable[[], object] | None = None,
    ) -> None:
        self.optimizers = optimizers
        self._pull, self._solve = pull, solve
        self._schedules = [LambdaLR(optimizer, falling(steps)) for optimizer in optimizers]

    def step(self, loss: Callable[[], Tensor]) -> None:
        """One step on the mini-batch that ``loss`` is computed on."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        if self._pull is not None:
            self._pull()
        for optimizer, schedule in zip(self.optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
        if self._solve is not None:
            self._solve()


#: model, workload, data and setting to what makes the steps
Make = Callable[[nn.Module, Workload, Data, Setting], Learner]


@dataclass(frozen=True)
class Contender:
    """A way to train.

    Args:
        name: on the command line and in the results' file.
        label: on the page.
        make: makes its learner for a fresh model.
        rates: learning rates in rising order.
        rate: of them the first that is tried.
        options: further choices, the values of each with the first to try in front.
    """

    name: str
    label: str
    make: Make
    rates: tuple[float, ...]
    rate: float
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def tuned(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.rates) > 1 or any(len(values) > 1 for values in self.options.values())

    @property
    def first(self) -> dict[str, Any]:
        """The setting that is tried first."""
        return {"lr": self.rate, **{name: values[0] for name, values in self.options.items()}}
