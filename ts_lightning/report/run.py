"""A finished, interrupted or failed run, as its folder tells it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ts_lightning.amount import amount
from ts_lightning.report.history import History, Point
from ts_lightning.report.summary import Summary

CONFIG, CHECKPOINT, METRICS, PAGE = "config.yaml", "last.ckpt", "metrics.csv", "report.html"
#: pictures that the report draws anew, for its own size
_OWN = ("figure", "comparison")
_COMMANDS = ("repeat", "resume", "predict")


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        folder: where its files are.
        config: the text of ``config.yaml``; empty if there is none.
        summary: how it went.
        history: its metrics.
    """

    folder: Path
    config: str
    summary: Summary
    history: History

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises:
            SettingError: the folder holds no run's ``summary.json``.
        """
        return cls.of(folder, Summary.read(folder), History.read(folder / METRICS))

    @classmethod
    def of(cls, folder: Path, summary: Summary, history: History) -> Run:
        """The run in a folder, of which summary and history are known already."""
        config = folder / CONFIG
        return cls(folder, config.read_text(encoding="utf-8") if config.is_file() else "", summary, history)

    @property
    def state(self) -> str:
        """How it ended, and after how many steps."""
        ended = "failed" if self.summary.failed else "interrupted" if self.summary.interrupted else "done"
        return f"{ended} after {amount(self.summary.steps, 'step')}"

    @property
    def settings(self) -> dict[str, Any]:
        """What ``config.yaml`` holds; empty where it is not a mapping."""
        try:
            read = yaml.safe_load(self.config)
        except yaml.YAMLError:  # tags of a user's own types
            return {}
        return read if isinstance(read, dict) else {}

    @property
    def versions(self) -> str:
        """What the run was made with, from the comments at the head of ``config.yaml``."""
        head = re.match(r"(#.*\n)*", self.config)
        lines = head.group().splitlines() if head else []
        return "; ".join(text for line in lines if (text := line.lstrip("# ").strip()))

    @property
    def commands(self) -> dict[str, str]:
        """What to type to repeat, resume or use the run: as the summary says, and else for the command line."""
        given = {name: text for name, text in self.summary.extra.items() if name in _COMMANDS}
        config, checkpoint = self.folder / CONFIG, self.folder / CHECKPOINT
        if given or not config.is_file():
            return given
        fit = f"ts-lightning fit --config {shlex.quote(str(config))}"
        resume = {"resume": f"{fit} --ckpt_path {shlex.quote(str(checkpoint))}"} if checkpoint.is_file() else {}
        return {"repeat": fit} | resume

    @property
    def remarks(self) -> dict[str, str]:
        """The summary's further lines that are no commands."""
        return {name: text for name, text in self.summary.extra.items() if name not in _COMMANDS}

    @property
    def pictures(self) -> list[Path]:
        """Further pictures in the folder, as PNG, in the order of their names."""
        return sorted(file for file in self.folder.glob("*.png") if file.stem not in _OWN)

    @property
    def files(self) -> list[str]:
        """The names of the run's files, and of folders with a slash behind."""
        return sorted(entry.name + "/" * entry.is_dir() for entry in self.folder.iterdir())

    def points(self, name: str) -> list[Point]:
        """A metric's values, with the seconds from the mean step where they were not measured."""
        step = self.summary.seconds / self.summary.steps if self.summary.steps else 0.0
        return [
            point if point.seconds is not None else replace(point, seconds=step * point.step)
            for point in self.history.points(name)
        ]
