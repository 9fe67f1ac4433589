"""The hook at ``Strategy.optimizer_step``, the one place that sees every optimizer step.

Around the closure: solve if the targets changed since the last solve, then the ordinary forward and backward, then pull
the weights' gradients back to the targets; that is before clipping, which the precision plugin does after the closure.
After the step: solve again, so that the weights hold the solved values at every moment outside a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.strategies import Strategy
from torch.optim import Optimizer

from ts_lightning.space import TargetSpace


class SolveHook:
    """Puts a target space's solve and pull-back into a strategy, and takes them out when the strategy is torn down.

    Args:
        strategy: the strategy in use; its ``optimizer_step`` and ``teardown`` are covered on the instance.
        space: the target space whose weights the strategy's optimizers train.
    """

    def __init__(self, strategy: Strategy, space: TargetSpace) -> None:
        self._strategy = strategy
        self._space = space
        self._step = strategy.optimizer_step
        self._teardown = strategy.teardown

    def attach(self) -> None:
        """Cover the strategy's methods."""
        self._strategy.__dict__["optimizer_step"] = self.optimizer_step
        self._strategy.__dict__["teardown"] = self.teardown

    def optimizer_step(self, optimizer: Optimizer, closure: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """The strategy's own step between two solves, with the pull-back behind its closure."""

        def pulled() -> Any:
            if self._space.stale:
                self._space.solve()
            result = closure()
            self._space.pullback()
            return result

        result = self._step(optimizer, pulled, *args, **kwargs)
        self._space.solve()
        return result

    def teardown(self) -> None:
        """Uncover the strategy's methods, then tear it down; also reached when training fails."""
        for name in ("optimizer_step", "teardown"):
            self._strategy.__dict__.pop(name, None)
        self._space.release()
        self._teardown()
