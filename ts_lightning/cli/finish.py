"""The end of a training run: what it reached, in a table, a figure and a page."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from lightning.pytorch import Trainer

from ts_lightning import report
from ts_lightning.callbacks.wandb import log_artifact
from ts_lightning.cli.clock import StepClock
from ts_lightning.report.run import CHECKPOINT, CONFIG
from ts_lightning.report.verdict import verdict_of_a_run

_short: ContextVar[bool] = ContextVar("short", default=False)


def shorten() -> None:
    """Have the runs of this process end with a line each, and no table, unless Ctrl-C ends them."""
    _short.set(True)


def finish(
    trainer: Trainer,
    folder: Path,
    history: report.History,
    *,
    title: str,
    space: Literal["target", "weight"],
    until: int | None,
    clock: StepClock,
    peak_memory: int | None,
    command: str,
    remarks: Mapping[str, str],
    interrupted: bool = False,
    failed: bool = False,
) -> None:
    """Leave ``summary.json``, ``figure.png``, ``figure.svg`` and ``report.html`` in the run's folder.

    The table is printed, or a line in its place where :func:`shorten` was called.

    Args:
        trainer: the Trainer that has trained.
        folder: the run's folder.
        history: what was logged during the run.
        title: the name of what was run.
        space: the space in which the module was trained.
        until: the steps after which target space was to end; ``None``: never.
        clock: the times of the steps, in seconds.
        peak_memory: what training added to the process, in bytes.
        command: the program's command, as it is typed.
        remarks: further lines of the table, by their label.
        interrupted: whether Ctrl-C ended the run.
        failed: whether an error did.
    """
    if not clock.seconds and trainer.ckpt_path is not None and not (interrupted or failed):
        warnings.warn(
            f"--ckpt_path {trainer.ckpt_path}: nothing was trained, since its training had ended at step "
            f"{trainer.global_step:,}. Expected a larger --trainer.max_epochs or --trainer.max_steps.",
            stacklevel=2,
        )
    commands = {"repeat": f"{command} fit --config {shlex.quote(str(folder / CONFIG))}"}
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        log_artifact(trainer, checkpoint)
        more = "" if interrupted or failed else _longer(trainer)
        commands["resume"] = f"{commands['repeat']} --ckpt_path {shlex.quote(str(checkpoint))}{more}"
    summary = report.Summary(
        title=title,
        space=space,
        until=until,
        steps=trainer.global_step,
        step_seconds=clock.median,
        seconds=clock.total,
        peak_memory=peak_memory,
        interrupted=interrupted,
        failed=failed,
        extra={**remarks, **commands},
    )
    summary.write(folder)
    run = report.Run.of(folder, summary, history)
    report.draw_run(run)
    report.write_page(run)
    short = _short.get() and not interrupted
    print(f"  {verdict_of_a_run(run)} {folder}/" if short else report.run_table(run), flush=True)


def _longer(trainer: Trainer) -> str:
    """Options for twice as long a training, of which a finished one is the first half."""
    if trainer.max_steps > 0:
        return f" --trainer.max_steps {2 * trainer.max_steps}"
    return "" if trainer.max_epochs in (None, -1) else f" --trainer.max_epochs {2 * trainer.max_epochs}"
