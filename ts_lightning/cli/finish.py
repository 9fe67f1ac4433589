"""The end of a training run: what it reached, in a table, a figure and a page."""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer

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
    timed: bool,
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
        timed: whether the option ``max_time`` limits the training, and no Timer of the user's.
        remarks: further lines of the table, by their label.
        interrupted: whether Ctrl-C ended the run.
        failed: whether an error did.
    """
    if not clock.seconds and trainer.ckpt_path is not None and not (interrupted or failed):
        warnings.warn(
            f"--ckpt_path {trainer.ckpt_path}: nothing was trained, since its training had ended at step "
            f"{trainer.global_step:,}. {_expected(trainer, timed)}",
            stacklevel=2,
        )
    commands = {"repeat": f"{command} fit --config {shlex.quote(str(folder / CONFIG))}"}
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        log_artifact(trainer, checkpoint)
        more = "" if interrupted or failed else _longer(trainer, timed)
        commands["resume"] = f"{commands['repeat']} --ckpt_path {shlex.quote(str(checkpoint))}{more}"
    summary = report.Summary(
        title=title,
        space=space,
        until=until,
        steps=trainer.global_step,
        step_seconds=clock.median,
        later_step_seconds=clock.median_behind,
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


def _longer(trainer: Trainer, timed: bool) -> str:
    """Options for twice as long a training, of which a finished one is the first half: by each of its limits."""
    limits = {name: str(2 * limit) for name, limit in _limits(trainer).items()}
    if len(limits) == 2:  # Lightning passes over an epoch where a fit with max_steps resumes behind a whole one
        limits["max_epochs"] = str(2 * (trainer.max_epochs or 0) + 1)
    timer = _timer(trainer)
    if timed and timer is not None:
        seconds = math.ceil(2 * (timer.time_elapsed() + (timer.time_remaining() or 0)))
        hours = seconds // 3600
        limits["max_time"] = f"{hours // 24:02}:{hours % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return "".join(f" --trainer.{name} {limit}" for name, limit in limits.items())


def _expected(trainer: Trainer, timed: bool) -> str:
    """What it takes to go on: a larger limit in the place of each that was reached."""
    epochs: int = trainer.fit_loop.epoch_progress.current.processed  # type: ignore[attr-defined]
    made = {"max_steps": trainer.global_step, "max_epochs": epochs}
    reached = [f"--trainer.{name}" for name, limit in _limits(trainer).items() if made[name] >= limit]
    timer = _timer(trainer)
    if timer is not None and (timer.time_remaining() or 0) <= 0:
        reached.append("--trainer.max_time" if timed else "duration of the Timer")
    return f"Expected a larger {' and '.join(reached) or '--trainer.max_epochs or --trainer.max_steps'}."


def _limits(trainer: Trainer) -> dict[str, int]:
    """The steps and epochs after which training ends, as far as it has such limits."""
    limits = {"max_steps": trainer.max_steps, "max_epochs": trainer.max_epochs}
    return {name: limit for name, limit in limits.items() if limit is not None and limit > 0}


def _timer(trainer: Trainer) -> Timer | None:
    """The callback that ends training after some time, if there is one."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    return next((timer for timer in timers if timer.time_remaining() is not None), None)
