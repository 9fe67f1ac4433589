"""The metrics of a run, as they are on file."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Point:
    """A metric's value after a number of optimizer steps."""

    step: int
    value: float


class History:
    """Metrics over steps.

    Args:
        rows: one dictionary per row of the file, values as written.
    """

    def __init__(self, rows: list[dict[str, str]]) -> None:
        self._rows = rows

    @classmethod
    def read(cls, file: Path) -> History:
        """The history that CSVLogger left; empty if it has not come to write any."""
        if not file.is_file():
            return cls([])
        with file.open(newline="", encoding="utf-8") as lines:
            return cls(list(csv.DictReader(lines)))

    def points(self, metric: str) -> list[Point]:
        """Every value of a metric, in order; steps count the updates made before it was measured."""
        # test metrics have the steps beside them; a training step's metrics are numbered from 0 by Lightning
        place = "step" if metric.startswith("train/") else "steps"
        values = {int(float(row[place])): float(row[metric]) for row in self._rows if row.get(metric)}
        return [Point(step, value) for step, value in sorted(values.items())]

    def best(self, metric: str, choose: Callable[..., Point] = max) -> Point | None:
        """The largest value of a metric (``choose=min``: the smallest), and where it was first reached."""
        points = self.points(metric)
        return choose(points, key=lambda point: point.value) if points else None

    def final(self, metric: str) -> Point | None:
        """The last value of a metric."""
        points = self.points(metric)
        return points[-1] if points else None
