"""The metrics of a run over its steps, as Lightning's CSVLogger left them in ``metrics.csv``.

Every row holds what was logged at one moment. The place of a value is the number of optimizer steps made before it was
measured: the column ``steps``, which the command line's clock logs beside metrics of validation and testing, together
with ``seconds``; and else Lightning's own ``step``.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ts_lightning.report.metric import Metric

_PLACES = frozenset({"epoch", "step", "steps", "seconds"})
#: columns of Lightning's monitors and of ours, which say how a run goes but not how well
_MONITORS = ("target_space/", "lr-", "DeviceStatsMonitor.")


def is_metric(column: str) -> bool:
    """Whether a column of ``metrics.csv`` says how well a run does."""
    return column not in _PLACES and not column.startswith(_MONITORS)


@dataclass(frozen=True)
class Point:
    """A metric's value after a number of optimizer steps.

    Attributes:
        step: optimizer steps made before it was measured.
        value: the metric.
        seconds: of training before it was measured; ``None`` where they are not known.
    """

    step: int
    value: float
    seconds: float | None = None


class History:
    """Metrics over steps.

    Args:
        rows: one dictionary per row of the file, values as written.

    Attributes:
        metrics: every metric, in the file's order, without columns of monitors.
    """

    def __init__(self, rows: Sequence[dict[str, str]]) -> None:
        self._rows = rows
        self._points: dict[str, list[Point]] = {}
        self._columns = dict.fromkeys(name for row in rows for name, value in row.items() if value)
        own = [name for name in self._columns if is_metric(name)]
        self.metrics = [self._metric(name) for name in own]

    @classmethod
    def read(cls, file: Path) -> History:
        """The history that CSVLogger left; empty if it has not come to write any."""
        if not file.is_file():
            return cls([])
        with file.open(newline="", encoding="utf-8") as lines:
            return cls([{name: row[name] or "" for name in row if name} for row in csv.DictReader(lines)])

    @property
    def measured(self) -> list[Metric]:
        """The metrics of validation and testing; where there are none, those of training."""
        return [metric for metric in self.metrics if metric.split != "training"] or self.metrics

    def metric(self, name: str) -> Metric:
        """The metric of this name."""
        return next((metric for metric in self.metrics if metric.name == name), Metric.of(name))

    def points(self, name: str) -> list[Point]:
        """Every value of a metric or of a monitor's column, in the order of steps; of two at one step, the later."""
        if name not in self._points:
            self._points[name] = self._read_points(name)
        return list(self._points[name])

    def _read_points(self, name: str) -> list[Point]:
        # a step's metrics are numbered from 0 by Lightning, and validation takes the number of the step before it
        late = int(self.metric(name).split == "validation")
        points = {}
        for row in self._rows:
            value = _number(row.get(name))
            if value is None:
                continue
            steps, step = _number(row.get("steps")), _number(row.get("step"))
            if steps is None and step is None:
                continue
            place = int(steps) if steps is not None else int(step or 0) + late
            points[place] = Point(place, value, _number(row.get("seconds")))
        return [points[place] for place in sorted(points)]

    def best(self, name: str) -> Point | None:
        """The smallest value of a loss or an error, the largest of other metrics, and where it was first reached."""
        points = [point for point in self.points(name) if math.isfinite(point.value)]
        choose = min if self.metric(name).smaller_is_better else max
        return choose(points, key=lambda point: point.value) if points else None

    def final(self, name: str) -> Point | None:
        """The last value of a metric."""
        points = self.points(name)
        return points[-1] if points else None

    def layers(self, quantity: str) -> dict[str, list[Point]]:
        """What the monitor saw of each layer, by its name, ``net.2`` before ``net.10``.

        Args:
            quantity: as in the column ``target_space/<quantity>/<layer>``.
        """
        head = f"target_space/{quantity}/"
        names = sorted((name for name in self._columns if name.startswith(head)), key=_natural)
        return {name.removeprefix(head): self.points(name) for name in names}

    def _metric(self, name: str) -> Metric:
        beside = any(row.get(name) and row.get("steps") for row in self._rows)
        return Metric.of(name, "validation" if beside else "training")


def means(points: Sequence[Point], at_most: int = 150) -> list[list[Point]]:
    """Neighbours in groups of equal size, so that no more than ``at_most`` are left to draw."""
    size = max(1, math.ceil(len(points) / at_most))
    return [list(points[i : i + size]) for i in range(0, len(points), size)]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _natural(name: str) -> list[tuple[int, str]]:
    """Names in the order that a reader counts in."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
