"""Both spaces side by side: runs with the same data, settings and seeds, how far they get, and how soon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean

from ts_lightning.amount import amount
from ts_lightning.errors import SettingError
from ts_lightning.report.history import Point
from ts_lightning.report.levels import default_levels
from ts_lightning.report.metric import Metric
from ts_lightning.report.run import Run
from ts_lightning.report.tuning import Tuning

SPACES = ("target", "weight")


@dataclass(frozen=True)
class Side:
    """The runs of one space, one for each seed.

    Attributes:
        space: ``target`` or ``weight``.
        runs: at least one.
    """

    space: str
    runs: Sequence[Run]

    def curves(self, name: str) -> list[list[Point]]:
        """A metric's values in every run that has any."""
        return [points for run in self.runs if (points := run.points(name))]

    def mean(self, name: str) -> list[Point]:
        """The mean over the seeds, of the metric and of the seconds, at the steps at which all were measured."""
        curves = [{point.step: point for point in points} for points in self.curves(name)]
        common = sorted(set.intersection(*map(set, curves))) if curves else []
        found = [[curve[step] for curve in curves] for step in common]
        return [
            Point(points[0].step, fmean(p.value for p in points), fmean(p.seconds or 0 for p in points))
            for points in found
        ]


@dataclass(frozen=True)
class Comparison:
    """Runs in both spaces, and what is looked at.

    Attributes:
        title: what was run.
        target: the runs in target space.
        weight: the runs in weight space.
        metric: the metric that is watched.
        levels: of it, the easiest first.
        tuning: how the learning rates were chosen; ``None`` where the settings say them.
        remarks: of seeds that are not among the runs and settings that count in one space, in a sentence each.
    """

    title: str
    target: Side
    weight: Side
    metric: Metric
    levels: Sequence[float]
    tuning: Tuning | None = None
    remarks: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        metric: str | None = None,
        levels: Sequence[float] | None = None,
        title: str | None = None,
        tuning: Tuning | None = None,
        remarks: Sequence[str] = (),
    ) -> Comparison:
        """Compare runs.

        Args:
            runs: of both spaces, in any order.
            metric: the name of the metric to watch; ``None`` takes an accuracy of validation or testing, else a loss.
            levels: of the metric; ``None`` chooses some that at least one space reaches.
            title: what was run; ``None`` takes what the runs' titles begin with.
            tuning: how the learning rates were chosen.
            remarks: of seeds that are not among the runs and settings that count in one space, in a sentence each.

        Raises:
            SettingError: there is no run of one space, or no such metric.
        """
        sides = {space: Side(space, [run for run in runs if run.summary.space == space]) for space in SPACES}
        for space, side in sides.items():
            if not side.runs:
                raise SettingError(f"found no run in {space} space among {len(runs)}; expected at least one.")
        watched = watched_metric(runs, metric)
        if levels is None:
            levels = default_levels(watched, [side.curves(watched.name) for side in sides.values()])
        title = title or _common([run.summary.title for run in runs])
        ordered = sorted(levels, reverse=watched.smaller_is_better)
        return cls(title, sides["target"], sides["weight"], watched, ordered, tuning, remarks)

    @property
    def sides(self) -> tuple[Side, Side]:
        """Target space and weight space."""
        return self.target, self.weight

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that some run has: the watched one, then those of validation and testing, then of training."""
        found = {metric.name: metric for side in self.sides for run in side.runs for metric in run.history.metrics}
        found.pop(self.metric.name, None)
        return [self.metric, *sorted(found.values(), key=lambda metric: metric.split == "training")]

    @property
    def seeds(self) -> str:
        """How many seeds each space was trained with."""
        target, weight = (len(side.runs) for side in self.sides)
        return amount(target, "seed") if target == weight else f"{target} and {amount(weight, 'seed')}"


def judged_metric(comparison: Comparison) -> Metric:
    """The metric that the spaces are judged by: of the test data, of the watched one's kind, or that one."""
    watched = comparison.metric
    same = [metric for metric in comparison.metrics if (metric.split, metric.quantity) == ("test", watched.quantity)]
    return same[0] if same and watched.split != "test" else watched


def _common(titles: Sequence[str]) -> str:
    """The parts, between commas, that all titles begin with; the first title where there is none."""
    parts = zip(*(title.split(", ") for title in titles), strict=False)
    return ", ".join(part[0] for part in takewhile(lambda part: len(set(part)) == 1, parts)) or titles[0]


def watched_metric(runs: Sequence[Run], name: str | None) -> Metric:
    """The metric of this name, or the first accuracy, else loss, else any; of several, one that was measured often.

    Raises:
        SettingError: there is no such metric, or none at all.
    """
    found = {metric.name: metric for run in runs for metric in run.history.metrics}
    if name is not None:
        if name not in found:
            raise SettingError(f"metric '{name}': found {', '.join(found) or 'none'}; expected one of these.")
        return found[name]
    measured = {metric.name: metric for run in runs for metric in run.history.measured}
    if not measured:
        raise SettingError("found no metrics in any run; expected at least one that the module logs.")

    def worth(metric: Metric) -> tuple[bool, bool, int]:
        often = max(len(run.history.points(metric.name)) for run in runs)
        return metric.is_accuracy, "loss" in metric.quantity, often

    return max(measured.values(), key=worth)
