"""The results' file: a line of JSON for each run and each timing, added when it has ended.

A run's line has ``workload``, ``steps``, ``contender``, ``setting``, ``seed`` and what ``training.train`` found; a
timing's has ``timed`` (the workload), ``ms`` and ``settings`` by contender, and how it was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.contender import Contender, Setting
from benchmarks.peers.workload import Workload

Line = dict[str, Any]
FILE = Path(__file__).resolve().parents[1] / "results" / "peers.jsonl"
#: the seed that settings are chosen with; those of the results follow
TUNING_SEED = 0


class Results:
    """The lines of a file, and those that are added to it.

    Args:
        file: need not exist.
    """

    def __init__(self, file: Path = FILE) -> None:
        self.file = file
        text = file.read_text() if file.exists() else ""
        self.lines: list[Line] = [json.loads(line) for line in text.splitlines() if line.strip()]

    def add(self, line: Line) -> None:
        """Write a line."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            print(json.dumps(line), file=file, flush=True)
        self.lines.append(line)

    def find(self, wanted: Line) -> Line | None:
        """The first line that says all of this."""
        return next((line for line in self.lines if wanted.items() <= line.items()), None)

    def runs(self, workload: Workload, contender: Contender) -> Iterator[Line]:
        """The runs of a contender on a workload at its present budget."""
        for line in self.lines:
            named = line.get("workload") == workload.name and line["contender"] == contender.name
            if named and line["steps"] == workload.steps:
                yield line

    def trials(self, workload: Workload, contender: Contender) -> list[Line]:
        """The runs that settings are chosen by, in the order in which they were made."""
        return [line for line in self.runs(workload, contender) if line["seed"] == TUNING_SEED]

    def seeds(self, workload: Workload, contender: Contender, setting: Setting) -> list[Line]:
        """The runs of a setting that are reported."""
        found = self.runs(workload, contender)
        return [line for line in found if line["seed"] != TUNING_SEED and line["setting"] == dict(setting)]

    def timing(self, workload: Workload) -> Line | None:
        """The last timing of a workload."""
        return next((line for line in reversed(self.lines) if line.get("timed") == workload.name), None)


def last_validation(line: Line) -> float:
    """What a trial is judged by: the validation metric at the end, minus infinity for a run that failed."""
    return float("-inf") if line["failed"] else float(line["validation"][-1])
