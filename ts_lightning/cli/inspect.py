"""``inspect``: what would be solved of a module, from how much and at what cost, as a table and without training."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from ts_lightning.cli.arguments import Arguments
from ts_lightning.cli.lightning_cli import TargetSpaceCLI
from ts_lightning.cli.parser import typed
from ts_lightning.engine.inspection import Inspection, inspection
from ts_lightning.errors import SettingError

_OF_TRAINING = ("Seed set to", "GPU available", "TPU available", "HPU available", "💡 Tip")
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
)
DOES = "say what would be solved and what it costs, without training"


@contextmanager
def _unsaid() -> Iterator[None]:
    """Leave out what Lightning says of the training that does not follow: seed, devices, loggers, callbacks."""

    def said(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_OF_TRAINING)

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(said)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(said)


class _Look(Callback):
    """Inspects the target space that a fit makes, and ends the fit ahead of its first step."""

    def __init__(self) -> None:
        self.found: Inspection | None = None
        self.began = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the limits of training away if there is a checkpoint, whose fit may have ended at them."""
        if trainer.ckpt_path is not None:
            trainer.fit_loop.max_epochs = trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Inspect, and stop."""
        self.began = True
        space = getattr(pl_module, "target_space_engine", None)
        if space is not None:
            size = getattr(trainer.train_dataloader, "batch_size", None)
            batch = space.cascade.reference.batch
            self.found = inspection(batch, space.layers, space.left, space.config, size)
        trainer.should_stop = True


class _InspectCLI(TargetSpaceCLI):
    """Makes module, data and Trainer as ``fit`` does, but leaves no files, and stops ahead of the first step."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A Trainer of one process, without loggers, bars and callbacks of the settings'."""
        self.look = _Look()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        if self._get(self.config_init, "trainer").max_epochs is None:
            kwargs["max_epochs"] = 1  # else Lightning says that it takes 1000
        alone = {
            "devices": 1,
            "num_nodes": 1,
            "num_sanity_val_steps": 0,
            "min_epochs": None,
            "min_steps": None,
            "max_time": None,
        }
        options = {**kwargs, **quiet, **alone, "enable_model_summary": False, "callbacks": [self.look]}
        return super(TargetSpaceCLI, self).instantiate_trainer(**options)


def _why(made: _InspectCLI) -> str:
    """Why a fit has no target space."""
    if made.space == "weight":
        return (
            "the module trains in weight space, as one without the mixin does without --target_space, and any with "
            "null. Expected options of fit that train in target space, as --target_space {}."
        )
    until = made.model.target_space.until
    if made.look.began and until is None:
        return "its optimizers train no layer that can be solved. Expected a module whose optimizers train one."
    if made.look.began:
        return (
            f"it has ended at step {until} (until), before the checkpoint was written. Expected an earlier checkpoint."
        )
    return (
        "there is no step to train. Expected training data, and no 0 for --trainer.max_steps, --trainer.max_epochs or "
        "--trainer.limit_train_batches."
    )


def main(command: str, arguments: Sequence[str]) -> None:
    """Print the table.

    Args:
        command: what to type for the program.
        arguments: options of ``fit``.

    Raises:
        SettingError: the options leave the module in weight space, or train nothing.
        TargetSpaceError: the settings ask for what cannot be solved.
    """
    parser = Arguments(
        prog=f"{command} inspect",
        description="Say of each layer whether it would be solved or why not, from how many rows, with how many inputs "
        "(the bias among them) and outputs, from which matrix, how much memory its targets take, and its share of what "
        "a step costs beyond weight space. Nothing is trained or written. Options of fit are options here, too: "
        "--config run.yaml, --model, --data, --target_space.",
    )
    _, rest = parser.parse_known_args(arguments)
    with _unsaid(), typed(f"{command} inspect"):
        made = _InspectCLI(command=command, args=["fit", *rest], save_config_callback=None)
    if made.look.found is None:
        raise SettingError(f"inspect: found no target space: {_why(made)}")
    print(f"\n{made.look.found}")
