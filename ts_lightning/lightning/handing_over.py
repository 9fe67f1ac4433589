"""The end of target space within a fit: behind ``until`` steps training goes on in weight space."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch.utilities import rank_zero_info

from ts_lightning.lightning.checkpoint import Restored
from ts_lightning.lightning.module import TargetSpaceModule

_ASKED = "configure_optimizers"


def is_over(module: TargetSpaceModule, step: int, restored: Restored | None = None) -> bool:
    """Whether target space ends at or before a step, as ``Trainer.global_step`` counts them.

    Not yet where targets are restored: optimizers take their moments before the weights follow.
    """
    config = module.target_space
    if config is None or config.until is None or step < config.until:
        return False
    return restored is None or restored.entry is None


def give_weight_optimizers(module: TargetSpaceModule, set_up: Callable[[], None]) -> None:
    """Let the optimizers of ``configure_weight_optimizers`` train the module, where it gives any.

    Args:
        module: the module.
        set_up: asks the module's ``configure_optimizers``, checks what it gives, and hands it to the strategy.
    """
    given = module.configure_weight_optimizers()
    if given is None:
        return
    own = module.__dict__.get(_ASKED)  # of the command line's, which stands there
    module.__dict__[_ASKED] = lambda: given
    try:
        set_up()
    finally:
        del module.__dict__[_ASKED]
        if own is not None:
            module.__dict__[_ASKED] = own


def say_it_is_over(module: TargetSpaceModule) -> None:
    """Name the step and the optimizers that go on."""
    config, trainer = module.target_space, module.trainer
    assert config is not None
    names = ", ".join(type(optimizer).__name__ for optimizer in trainer.strategy.optimizers)
    rank_zero_info(
        f"Target space ended (until={config.until}): from step {trainer.global_step} on, the weights are trained by "
        f"{names}."
    )
