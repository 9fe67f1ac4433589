"""The end of target space within a fit: behind ``until`` steps training goes on in weight space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch.callbacks import BaseFinetuning, Callback, StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ts_lightning.errors import TargetSpaceError
from ts_lightning.lightning.checkpoint import Restored
from ts_lightning.lightning.module import TargetSpaceModule, gives

_ASKED = "configure_optimizers"
#: callbacks that hold on to parameter groups or schedules of the optimizers that they began with
_HOLDING = (BaseFinetuning, StochasticWeightAveraging)


class HandingOver:
    """When target space ends in the fits of a module, and which optimizers go on.

    Args:
        module: the module.

    Attributes:
        trained: whether the weights are those of a fit that has gone on in weight space.
        own: whether the present optimizers are those of ``configure_weight_optimizers``.
    """

    def __init__(self, module: TargetSpaceModule) -> None:
        self.module = module
        self.trained = self.own = False
        self._resumed_at = 0  # steps of the checkpoint that a fit goes on from
        self._callbacks: list[Callback] = []
        self._before: tuple[Any, Any] | None = None  # optimizers and schedules of target space

    def attach(self, trainer: Any) -> None:
        """A fit is about to start."""
        self._resumed_at, self._callbacks, self._before, self.own = 0, list(trainer.callbacks), None, False

    def is_over(self, step: int, restored: Restored | None = None) -> bool:
        """Whether target space ends at or before a step, as ``Trainer.global_step`` counts them.

        Not yet where targets are restored: optimizers take their moments before the weights follow.
        """
        config = self.module.target_space
        if config is None or config.until is None or step < config.until:
            return False
        return restored is None or restored.entry is None

    @property
    def due(self) -> bool:
        """Whether it ends now. A search for a rate or a batch size, which sets the fit's callbacks aside, goes back."""
        trainer: Any = self.module.trainer
        trial = bool(self._callbacks) and not any(one in trainer.callbacks for one in self._callbacks)
        return self.is_over(trainer.global_step) and not trial

    def loaded(self, step: int, restored: Restored, own: bool) -> None:
        """A checkpoint was loaded.

        Args:
            step: of the checkpoint.
            restored: what the fit goes on from.
            own: whether the checkpoint is of the optimizers of ``configure_weight_optimizers``.

        Raises:
            TargetSpaceError: it is, and this fit has others at that step.
        """
        self.trained = False
        if not restored.resuming:
            return
        if own and not self.is_over(step, restored):
            raise TargetSpaceError(
                f"The checkpoint was written at step {step}, behind the end of target space, by the optimizers of "
                f"configure_weight_optimizers(). In this fit target space does not end before: give it the same until, "
                f"or load the weights alone and fit without ckpt_path."
            )
        self._resumed_at = step
        if self._before is not None and not self.is_over(step, restored):
            strategy = self.module.trainer.strategy
            strategy.optimizers, strategy.lr_scheduler_configs = self._before
            self._before, self.own = None, False

    def set_up(self, set_up: Callable[[], None], restored: Restored | None) -> None:
        """Set a fit's optimizers up; where it goes on behind the end of target space, those of weight space."""
        set_up()
        if self.is_over(max(self.module.trainer.global_step, self._resumed_at), restored):
            self._give(set_up)

    def give(self, set_up: Callable[[], None]) -> None:
        """Let weight space's optimizers go on in mid-fit; the others are kept for a checkpoint of before."""
        strategy = self.module.trainer.strategy
        before = strategy.optimizers, strategy.lr_scheduler_configs
        self._give(set_up)
        self._before = before if self.own else None

    def _give(self, set_up: Callable[[], None]) -> None:
        """Let what ``configure_weight_optimizers`` gives train the module, if it gives anything.

        Args:
            set_up: asks the module's ``configure_optimizers``, checks what it gives, and hands it to the strategy.
        """
        given = self.module.configure_weight_optimizers()
        if not given:  # None, or an empty list
            return
        methods = self.module.__dict__
        own = methods.get(_ASKED)  # of the command line's, which stands there
        methods[_ASKED] = lambda: given
        try:
            set_up()
        finally:
            del methods[_ASKED]
            if own is not None:
                methods[_ASKED] = own
        self.own = True

    def say_it_is_over(self) -> None:
        """Name the step and the optimizers that go on."""
        config, trainer = self.module.target_space, self.module.trainer
        assert config is not None
        names = ", ".join(type(optimizer).__name__ for optimizer in trainer.strategy.optimizers)
        rank_zero_info(
            f"Target space ended (until={config.until}): from step {trainer.global_step} on, the weights are trained "
            f"by {names}."
        )

    def say_what_it_ends(self) -> None:
        """Name the callbacks of a fit that hold on to the optimizers that weight space replaces."""
        config, callbacks = self.module.target_space, self._callbacks
        holding = [type(callback).__name__ for callback in callbacks if isinstance(callback, _HOLDING)]
        if (
            config is None
            or config.until is None
            or not holding
            or not gives(self.module, "configure_weight_optimizers")
        ):
            return
        rank_zero_warn(
            f"{', '.join(holding)} with until={config.until} and configure_weight_optimizers(): what it sets in the "
            f"optimizers of target space, as groups and schedules, ends with these, and a checkpoint of behind cannot "
            f"be resumed. Leave configure_weight_optimizers() out, so that the optimizers go on, or the callback."
        )
