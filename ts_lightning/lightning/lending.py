"""A module in the midst of its fit that another Trainer evaluates, as a hook does that validates with one of its own.

Lightning leaves the module with that Trainer. The fit's optimizers could not be found there, and checkpoints would lack
their moments.
"""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from ts_lightning.lightning.covers import Covers


def set_trainer(module: LightningModule, trainer: Trainer | None) -> None:
    """Set a module's Trainer as Lightning does, past the setter of the mixin, which would lend the module again."""
    LightningModule.trainer.fset(module, trainer)  # type: ignore[attr-defined]


def lend(module: LightningModule, trainer: Trainer, before: Trainer) -> None:
    """Give a module back to the Trainer that had it ``before``, once the one that evaluates it tears down."""
    covers = Covers()

    def teardown() -> None:
        covers.uncover()
        trainer.strategy.teardown()
        set_trainer(module, before)

    covers.cover(trainer.strategy, "teardown", teardown)
