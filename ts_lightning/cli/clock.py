"""A clock that is fair to both spaces: what every training step takes, with solve and pull-back in target space."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

#: caches, allocators and lazily built kernels settle in the first steps
_WARM_UP = 10
#: under which a checkpoint has the seconds so far; as the state of a callback, Lightning asks every program for it
_KEY = "training_seconds"


class StepClock(Callback):
    """Times every training step: forward, backward and update.

    Loading a batch, validation and logging to files are not in it. Logs ``steps``, the optimizer steps made, and
    ``seconds``, the time that they took, beside the metrics of validation and testing.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.ended: int | None = None  # how many of them were made when target space had ended, as ``until`` says
        self._start = 0.0
        self.before = 0.0  # of them, in seconds, those before resuming

    @property
    def total(self) -> float:
        """The seconds of all steps, those before resuming among them."""
        return self.before + sum(self.seconds)

    @property
    def median(self) -> float | None:
        """The median step in seconds, without the first steps; ``None`` before any. Until target space ends."""
        return _median(self.seconds[: self.ended])

    @property
    def median_behind(self) -> float | None:
        """Likewise of the steps behind the end of target space; ``None`` without any."""
        return None if self.ended is None else _median(self.seconds[self.ended :])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the seconds so far, to go on from."""
        checkpoint[_KEY] = self.total

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from a checkpoint's seconds; one of a program of the user's own has none."""
        self.before = checkpoint.get(_KEY, 0.0)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the seconds of a checkpoint of version 0.1, which has them as this callback's state."""
        self.before = state_dict["seconds"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
        until = getattr(getattr(pl_module, "target_space", None), "until", None)
        if self.ended is None and until is not None and trainer.global_step >= until:
            self.ended = len(self.seconds)
        _wait(pl_module)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock."""
        _wait(pl_module)
        self.seconds.append(time.perf_counter() - self._start)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log steps and time so far."""
        if self.seconds:
            pl_module.log_dict({"steps": float(trainer.global_step), "seconds": self.total}, sync_dist=True)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log steps and time so far."""
        self.on_validation_epoch_end(trainer, pl_module)


def _median(seconds: Sequence[float]) -> float | None:
    settled = seconds[min(_WARM_UP, len(seconds) // 2) :]
    return statistics.median(settled) if settled else None


def _wait(module: LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
