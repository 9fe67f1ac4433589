"""Learning rates chosen for each space from the same trials, and what is said of the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ts_lightning.report.metric import Metric
from ts_lightning.report.run import Run


@dataclass(frozen=True)
class Trial:
    """A run with a learning rate that may be chosen.

    Attributes:
        lr: the learning rate.
        run: the run; ``None`` where it failed before it measured anything.
    """

    lr: float
    run: Run | None

    @property
    def failed(self) -> bool:
        """Whether an error ended it."""
        return self.run is None or self.run.summary.failed


@dataclass(frozen=True)
class Tuning:
    """The same learning rates tried in both spaces.

    Attributes:
        metric: whose last value decides.
        seed: of all trials.
        target: the trials in target space, by increasing learning rate.
        weight: and those in weight space.
    """

    metric: Metric
    seed: int
    target: Sequence[Trial]
    weight: Sequence[Trial]

    def chosen(self, space: str) -> Trial:
        """The trial with the best last value; one that failed or diverged is never better than one that did not."""
        trials: Sequence[Trial] = getattr(self, space)
        return max(trials, key=self._worth)

    def rows(self) -> list[tuple[str, str, str]]:
        """For each learning rate, the last value of the metric in target and in weight space, as text."""
        return [
            (f"{target.lr:g}", self._shown(target), self._shown(weight))
            for target, weight in zip(self.target, self.weight, strict=True)
        ]

    def notes(self) -> list[str]:
        """How the learning rates were chosen, and where the choice may not be the best."""
        rates = ", ".join(f"{trial.lr:g}" for trial in self.target)
        if len(self.target) == 1:
            return [f"Learning rate: {rates} in both spaces, the only one that was tried."]
        target, weight = self.chosen("target").lr, self.chosen("weight").lr
        said = [
            f"Learning rates: {target:g} in target space and {weight:g} in weight space, each the best of {rates} by "
            f"the last {self.metric.label} with seed {self.seed}: the same {len(self.target)} trials for both."
        ]
        if self.metric.split != "validation":
            said.append(
                f"There is no validation data: they were chosen on {self.metric.split} data, which flatters both."
            )
        for space in ("target", "weight"):
            trials: Sequence[Trial] = getattr(self, space)
            if self.chosen(space) in (trials[0], trials[-1]):
                which = "smallest" if self.chosen(space) is trials[0] else "largest"
                said.append(f"That of {space} space is the {which} that was tried: the best may lie beyond it.")
        return said

    def _value(self, trial: Trial) -> float:
        final = None if trial.run is None else trial.run.history.final(self.metric.name)
        return math.nan if final is None else final.value

    def _shown(self, trial: Trial) -> str:
        return "failed" if trial.failed else f"{self._value(trial):.4g}"

    def _worth(self, trial: Trial) -> float:
        value = math.nan if trial.failed else self._value(trial)
        return -math.inf if not math.isfinite(value) else -value if self.metric.smaller_is_better else value
