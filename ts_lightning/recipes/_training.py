"""One training run of a recipe: Lightning's Trainer, a clock that is fair to both spaces, and a clean end on Ctrl-C."""

from __future__ import annotations

import contextlib
import logging
import signal
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerStatus

from ts_lightning.recipes._history import History

#: caches, allocators and lazily built kernels settle in the first steps
_WARM_UP = 10
#: Lightning's advice that does not fit data held in memory, and its own use of something deprecated
_QUIET = ("does not have many workers", "exists and is not empty", "smaller than the logging interval", "LeafSpec")


class StepClock(Callback):
    """Times every training step: forward, backward and update, with solve and pull-back in target space.

    Loading a batch, validation and logging to files are not in it. Logs ``steps``, the optimizer steps made, and
    ``seconds``, the time that they took, beside the test metrics.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    @property
    def median(self) -> float | None:
        """The median step in seconds, without the first steps; ``None`` before any."""
        settled = self.seconds[min(_WARM_UP, len(self.seconds) // 2) :]
        return statistics.median(settled) if settled else None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock."""
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
        pl_module.log_dict({"steps": float(trainer.global_step), "seconds": sum(self.seconds)})

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log steps and time so far."""
        self.on_validation_epoch_end(trainer, pl_module)


@dataclass(frozen=True)
class Outcome:
    """What a run reached.

    Attributes:
        history: the metrics on file.
        steps: optimizer steps made.
        step_seconds: the median step in seconds; ``None`` before any.
        seconds: the time of all steps.
        interrupted: ended by Ctrl-C.
    """

    history: History
    steps: int
    step_seconds: float | None
    seconds: float
    interrupted: bool


def fit(
    model: LightningModule,
    data: LightningDataModule,
    folder: Path,
    *,
    accelerator: str,
    callbacks: Sequence[Callback] = (),
    **limits: Any,
) -> Outcome:
    """Train, then test; leave ``metrics.csv`` and ``last.ckpt`` in the folder, after Ctrl-C as well.

    Args:
        model: what to train.
        data: training data, and the test split as both validation and test data.
        folder: the run's folder.
        accelerator: ``auto`` (CUDA where there is a GPU), ``cpu`` or ``cuda``.
        callbacks: more callbacks.
        limits: how long to train, how often to validate and to log, in the Trainer's terms.
    """
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    clock = StepClock()
    interrupts = signal.getsignal(signal.SIGINT)
    with _quiet():
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            callbacks=[clock, *callbacks],
            logger=CSVLogger(folder, name="", version=""),
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **limits,
        )
        try:
            trainer.fit(model, data)
            trainer.save_checkpoint(folder / "last.ckpt")
            trainer.test(model, data, verbose=False)
        except SystemExit:  # how Lightning ends on Ctrl-C, after closing its loggers
            if trainer.state.status != TrainerStatus.INTERRUPTED:
                raise
            _close_bar(trainer)
            trainer.save_checkpoint(folder / "last.ckpt")
        finally:
            signal.signal(signal.SIGINT, interrupts)  # Lightning ignores further ones from the first on
    interrupted = trainer.state.status == TrainerStatus.INTERRUPTED
    history = History.read(folder / "metrics.csv")
    return Outcome(history, trainer.global_step, clock.median, sum(clock.seconds), interrupted)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for text in _QUIET:
            warnings.filterwarnings("ignore", message=f".*{text}")
        try:
            yield
        finally:
            logger.setLevel(level)


def _close_bar(trainer: Trainer) -> None:
    """Leave the bar's last line as it is, which Lightning does not do on Ctrl-C."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar):
        with contextlib.suppress(TypeError):  # interrupted before the bar was made
            bar.train_progress_bar.close()


def _wait(module: LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
