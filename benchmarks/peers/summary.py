"""What the page says of a contender on a workload, from the lines of the results' file."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.contender import Contender
from benchmarks.peers.protocol import chosen
from benchmarks.peers.results import Line, Results
from benchmarks.peers.workload import Workload


@dataclass(frozen=True)
class Reported:
    """A contender's runs with its chosen setting, one for each seed.

    Attributes:
        workload: what was trained.
        contender: how.
        setting: that was chosen.
        lines: of the results' file.
        ms: milliseconds of a step; None where they were not measured.
    """

    workload: Workload
    contender: Contender
    setting: dict[str, Any]
    lines: Sequence[Line]
    ms: float | None

    @property
    def final(self) -> list[float]:
        """The test metric at the end by seed, 0 for a run that failed."""
        return [0.0 if line["failed"] else line["test"][-1] for line in self.lines]

    @property
    def at_best(self) -> list[float]:
        """The test metric where the validation metric was best, by seed; 0 for a run that measured none."""
        found = []
        for line in self.lines:
            pairs = zip(line["validation"], line["test"], strict=True)
            found.append(max(pairs, key=lambda pair: pair[0], default=(0.0, 0.0))[1])
        return found

    @property
    def mean(self) -> float:
        """The mean test metric at the end."""
        return statistics.fmean(self.final)

    def curve(self) -> tuple[list[int], list[float]]:
        """Steps, and the mean test metric there over the seeds that came so far."""
        longest = max((line["at"] for line in self.lines), key=len)
        values = [[line["test"][i] for line in self.lines if i < len(line["test"])] for i in range(len(longest))]
        return longest, [statistics.fmean(some) for some in values]

    def steps_to(self, level: float) -> float:
        """The step at which a level of the validation metric is reached, median over seeds; infinity for never."""
        return statistics.median_high([_first(line["at"], line["validation"], level) for line in self.lines])

    def seconds_to(self, level: float) -> float:
        """The same in seconds; not a number where the time of a step was not measured."""
        return math.nan if self.ms is None else self.steps_to(level) * self.ms / 1e3

    def after(self, seconds: float) -> float:
        """The mean test metric after so many seconds, between two measurements on the line that joins them.

        At most that at the end; not a number where the time of a step was not measured.
        """
        at, values = self.curve()
        if self.ms is None:
            return math.nan
        step = min(seconds * 1e3 / self.ms, at[-1])
        later = next(i for i, one in enumerate(at) if one >= step)
        if later == 0:
            return values[0]
        share = (step - at[later - 1]) / (at[later] - at[later - 1])
        return values[later - 1] + share * (values[later] - values[later - 1])


def _first(at: Sequence[int], values: Sequence[float], level: float) -> float:
    """The step of a level, between two measurements on the line that joins them."""
    for i, (step, value) in enumerate(zip(at, values, strict=True)):
        if value >= level:
            if i == 0:
                return step
            share = (level - values[i - 1]) / (value - values[i - 1])
            return at[i - 1] + share * (step - at[i - 1])
    return math.inf


Summary = dict[str, dict[str, Reported]]


def summary(
    results: Results, workloads: Sequence[Workload], contenders: Sequence[Contender], trials: int
) -> tuple[Summary, list[str]]:
    """What was measured whole, by workload and contender, and the names of workloads that were measured in part.

    A workload is whole where every contender has made its trials and has runs of its chosen setting; the seeds are
    those that all contenders have.
    """
    found: Summary = {}
    partial = []
    for workload in workloads:
        lines: dict[str, list[Line]] = {}
        settings = {c.name: chosen(workload, c, results, trials) for c in contenders}
        for contender in contenders:
            setting = settings[contender.name]
            lines[contender.name] = [] if setting is None else results.seeds(workload, contender, setting)
        seeds = set.intersection(*({line["seed"] for line in some} for some in lines.values()))
        if not seeds:
            partial += [workload.name] if any(True for c in contenders for _ in results.runs(workload, c)) else []
            continue
        timing = results.timing(workload)
        times = {} if timing is None or timing["settings"] != settings else timing["ms"]
        found[workload.name] = {
            c.name: Reported(
                workload,
                c,
                settings[c.name] or {},
                sorted((line for line in lines[c.name] if line["seed"] in seeds), key=lambda line: line["seed"]),
                times.get(c.name),
            )
            for c in contenders
        }
    return found, partial
