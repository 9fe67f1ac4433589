"""The end of a training run: what it reached, in a table, a figure and a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer

from ts_lightning import report
from ts_lightning.callbacks.wandb import log_artifact
from ts_lightning.cli.memory import process_peak
from ts_lightning.report.run import CHECKPOINT, CONFIG, METRICS

if TYPE_CHECKING:
    from ts_lightning.cli.lightning_cli import TargetSpaceCLI


def finish(cli: TargetSpaceCLI, folder: Path, interrupted: bool) -> None:
    """Leave ``summary.json``, ``figure.png``, ``figure.svg`` and ``report.html`` in the run's folder; print the table.

    Args:
        cli: whose Trainer has trained.
        folder: the run's.
        interrupted: by Ctrl-C.
    """
    history = report.History.read(folder / METRICS)
    commands = {"repeat": f"{cli.command} fit --config {folder / CONFIG}"}
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        log_artifact(cli.trainer, checkpoint)
        more = "" if interrupted else _longer(cli.trainer)
        commands["resume"] = f"{commands['repeat']} --ckpt_path {checkpoint}{more}"
    summary = report.Summary(
        title=cli.title(),
        space=cli.space,
        steps=cli.trainer.global_step,
        step_seconds=cli.clock.median,
        seconds=cli.clock.total,
        peak_memory=_peak_memory(),
        interrupted=interrupted,
        extra={**cli.remarks(history), **commands},
    )
    summary.write(folder)
    run = report.Run.of(folder, summary, history)
    report.draw_run(run)
    report.write_page(run)
    print(report.run_table(run))


def _longer(trainer: Trainer) -> str:
    """Options for twice as long a training, of which a finished one is the first half."""
    if trainer.max_steps > 0:
        return f" --trainer.max_steps {2 * trainer.max_steps}"
    return "" if trainer.max_epochs in (None, -1) else f" --trainer.max_epochs {2 * trainer.max_epochs}"


def _peak_memory() -> int | None:
    """Bytes: of CUDA's allocator on a GPU, else of the process."""
    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    return allocated or process_peak()
