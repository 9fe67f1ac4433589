"""What a fit has reached in processes that it started anew (``ddp_spawn``), brought to the one that prints the table.

That process has the Trainer and the callbacks of before the fit, and from Lightning the last metrics and weights alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from ts_lightning.cli.clock import StepClock
from ts_lightning.cli.facts import Facts
from ts_lightning.cli.files import loaded
from ts_lightning.cli.memory import TrainingMemory

_FILE = "reached.pt"


class Spawned(Callback):
    """Leaves a file in the run's folder, where the fit is in another process than the one that made this callback.

    It does so behind every validation and epoch, and at the end, so that a run that an error ends has it, too.

    Args:
        clock: whose seconds are brought.
        memory: whose peak is brought.
        facts: whose lines are brought.
    """

    def __init__(self, clock: StepClock, memory: TrainingMemory, facts: Facts) -> None:
        self._clock, self._memory, self._facts = clock, memory, facts
        self._process = os.getpid()

    @contextmanager
    def brought(self, trainer: Trainer) -> Iterator[None]:
        """Take what a fit in the block has left, if it has, also where an error or Ctrl-C ends it."""
        try:
            yield
        finally:
            callbacks = trainer.callbacks  # type: ignore[attr-defined] # the Trainer's class does not declare them
            if self in callbacks and _file(trainer).is_file():  # it is not among those of a run without a folder
                self._bring(trainer)

    def _bring(self, trainer: Trainer) -> None:
        found = loaded(_file(trainer))
        _file(trainer).unlink()
        trainer.fit_loop.load_state_dict(found["progress"])
        self._clock.seconds, self._clock.ended, self._clock.before = found["clock"]
        self._memory.measured = found["peak"]
        self._facts.found = found["facts"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave it, behind the sanity check."""
        if not trainer.sanity_checking:
            self._leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave it."""
        self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave it."""
        self._leave(trainer)

    def _leave(self, trainer: Trainer) -> None:
        if os.getpid() == self._process or not trainer.is_global_zero:
            return
        found: dict[str, Any] = {
            "progress": trainer.fit_loop.state_dict(),
            "clock": (self._clock.seconds, self._clock.ended, self._clock.before),
            "peak": self._memory.peak,
            "facts": self._facts.found,
        }
        new = _file(trainer).with_suffix(".new")
        torch.save(found, new)
        new.replace(_file(trainer))  # at once, should the process end meanwhile


def _file(trainer: Trainer) -> Path:
    """The file, in the run's folder."""
    return Path(trainer.default_root_dir) / _FILE
