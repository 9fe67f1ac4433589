"""A learner that trains in target space first, and goes on in weight space with other optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.peers.contender import Learner, falling
from ts_lightning import TargetSpace


class HandedOver(Learner):
    """Target space for the first steps, and weight space for the others, on one schedule.

    Args:
        model: the model.
        space: its target space.
        optimizer: of the targets.
        steps: the budget.
        until: steps in target space.
        others: makes the optimizers of weight space.
    """

    def __init__(
        self,
        model: nn.Module,
        space: TargetSpace,
        optimizer: Optimizer,
        steps: int,
        until: int,
        others: Callable[[nn.Module], Sequence[Optimizer]],
    ) -> None:
        super().__init__([optimizer], steps, space.pullback, space.solve)
        self._model, self._space, self._share = model, space, falling(steps)
        self._until, self._others, self._made = until, others, 0

    def step(self, loss: Callable[[], Tensor]) -> None:
        """One step."""
        if self._made == self._until:
            self._space.release()
            self.optimizers, self._pull, self._solve = self._others(self._model), None, None
            self._schedules = [LambdaLR(one, lambda step: self._share(self._until + step)) for one in self.optimizers]
        super().step(loss)
        self._made += 1
