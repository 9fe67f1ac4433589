"""One run: a workload, a contender, a setting and a seed, to the end of the budget."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from benchmarks.peers.contender import Contender, Learner, Setting
from benchmarks.peers.workload import Data, Workload, batches, measured_at
from ts_lightning import TargetSpaceError


def begin(workload: Workload, contender: Contender, data: Data, setting: Setting, seed: int) -> Runner:
    """A run that has made no step yet."""
    torch.manual_seed(seed)
    model = workload.build()
    return Runner(workload, data, model, contender.make(model, workload, data, setting), seed)


class Runner:
    """Makes the steps of a run one by one.

    Args:
        workload: what is trained.
        data: its data.
        model: is trained.
        learner: makes the steps.
        seed: of the order of the training samples.
    """

    def __init__(self, workload: Workload, data: Data, model: torch.nn.Module, learner: Learner, seed: int) -> None:
        self.workload, self.model, self._learner = workload, model, learner
        self._batches = batches(data.train, workload.batch, seed)

    def step(self) -> float:
        """One step; the loss before it."""
        x, y = next(self._batches)
        losses: list[float] = []

        def loss() -> torch.Tensor:
            found = self.workload.loss(self.model(x), y)
            losses.append(float(found.detach()))
            return found

        self._learner.step(loss)
        return losses[-1]


def train(
    workload: Workload, contender: Contender, data: Data, setting: Setting, seed: int, *, tested: bool
) -> dict[str, Any]:
    """Train to the end of the budget, or until the loss is not finite.

    Args:
        workload: what is trained.
        contender: how.
        data: the workload's.
        setting: of the contender.
        seed: of weights, targets, dropout and the order of samples.
        tested: whether the test split is looked at, which tuning does not do.

    Returns:
        ``at``: the steps of the measurements; ``validation`` and ``test``: the metric there; ``ms``: processor
        time of a step, mean; ``failed``: why the run ended early, or None.
    """
    found: dict[str, Any] = {"at": [], "validation": [], "test": [], "ms": None, "failed": None}
    points = set(measured_at(workload.steps))
    spent, step = 0.0, 0
    try:
        runner = begin(workload, contender, data, setting, seed)
        for step in range(1, workload.steps + 1):
            start = time.process_time()
            loss = runner.step()
            spent += time.process_time() - start
            if not math.isfinite(loss):
                found["failed"] = f"the loss was {loss} at step {step}"
                break
            if step in points:
                validation = workload.score(runner.model, data.validation)
                if not math.isfinite(validation):
                    found["failed"] = f"outputs were not finite at step {step}"
                    break
                found["at"].append(step)
                found["validation"].append(round(validation, 4))
                if tested:
                    found["test"].append(round(workload.score(runner.model, data.test), 4))
    except (TargetSpaceError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        found["failed"] = f"{type(error).__name__} at step {step}: {error}"
    found["ms"] = round(spent / max(step, 1) * 1e3, 3)
    return found
