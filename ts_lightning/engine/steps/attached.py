"""An optimizer that pulls back and solves by its own steps, in a loop of one's own or of a library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from ts_lightning.engine.steps.optimizers import trained_by
from ts_lightning.engine.steps.stepping import Stepping
from ts_lightning.engine.steps.steps import OptimizerSteps
from ts_lightning.errors import TargetSpaceError


class AttachedOptimizer:
    """What :meth:`TargetSpace.attach` returns: a handle, as PyTorch's hooks have. In a ``with`` it ends with it."""

    def __init__(self, stepping: Stepping, steps: OptimizerSteps) -> None:
        self._stepping = stepping
        self._steps: OptimizerSteps | None = steps

    def remove(self) -> None:
        """Let the optimizer step targets alone: ``pullback()`` and ``solve()`` are called by hand from here on."""
        if self._steps is not None:
            self._steps.detach()
            self._steps = None
            if not self._stepping.following:
                self._stepping.hand_over()

    def __enter__(self) -> AttachedOptimizer:
        return self

    def __exit__(self, *error: Any) -> None:
        self.remove()


def attach(
    stepping: Stepping,
    optimizer: Optimizer,
    substitute: Callable[[Optimizer], None],
    after_step: Callable[[], None],
) -> AttachedOptimizer:
    """Attach an optimizer, see :meth:`TargetSpace.attach`.

    Args:
        stepping: the steps of all optimizers of a target space.
        optimizer: one of them.
        substitute: puts targets in the place of weights in it.
        after_step: called after each step.

    Raises:
        TargetSpaceError: it is attached already, trains nothing of the target space, or cannot be given targets.
    """
    kind = type(optimizer).__name__
    if stepping.follows(optimizer):
        raise TargetSpaceError(
            f"attach: found {kind} that pulls back and solves by its own steps already, as in a fit of Lightning; "
            f"expected one call for each optimizer, and none in a fit."
        )
    substitute(optimizer)
    cascade = stepping.cascade
    if trained_by(optimizer).isdisjoint(map(id, cascade.trained.parameters())):
        raise TargetSpaceError(
            f"attach: found {kind} without any parameter that the target space trains; expected an optimizer of "
            f"space.parameters(), or of the model's."
        )
    steps = OptimizerSteps(stepping, optimizer, after_step=after_step, own_loop=True)
    steps.attach()
    return AttachedOptimizer(stepping, steps)
