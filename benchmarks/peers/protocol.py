"""The protocol: trials on validation data with seed 0, then further seeds with the chosen setting.

Every contender has the same number of trials and of seeds. What the results' file has already is not run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.contender import Contender
from benchmarks.peers.results import TUNING_SEED, Line, Results, last_validation
from benchmarks.peers.training import train
from benchmarks.peers.tuning import best, next_trial
from benchmarks.peers.workload import Workload

#: the full protocol's
TRIALS, SEEDS = 8, 5


def chosen(workload: Workload, contender: Contender, results: Results, trials: int) -> dict[str, Any] | None:
    """The setting that is reported; None as long as there are trials to make."""
    known = results.trials(workload, contender)[:trials]
    if not contender.tuned:
        return contender.first
    if next_trial(contender, known, trials) is not None:
        return None
    return best(known)


def measure(
    workloads: Sequence[Workload],
    contenders: Sequence[Contender],
    results: Results,
    root: Path,
    trials: int = TRIALS,
    seeds: int = SEEDS,
    seconds: float = float("inf"),
    say: Callable[[str], None] = print,
) -> bool:
    """Make the runs that are missing, workload by workload.

    Args:
        workloads: what is trained.
        contenders: how.
        results: where lines are added.
        root: folder of data sets.
        trials: of each contender.
        seeds: of each contender's chosen setting.
        seconds: after which no further run begins.
        say: shows progress, a line for each run.

    Returns:
        Whether nothing is missing.
    """
    end = time.monotonic() + seconds
    for workload in workloads:
        for contender in contenders:
            for run in missing(workload, contender, results, trials, seeds):
                if time.monotonic() > end:
                    return False
                begin = time.monotonic()
                setting, seed = run["setting"], run["seed"]
                data = workload.data(root)
                found = train(workload, contender, data, setting, seed, tested=seed != TUNING_SEED)
                line = {**run, **found, "torch": torch.__version__, "threads": torch.get_num_threads()}
                results.add(line)
                took = time.monotonic() - begin
                shown = line["failed"] or f"validation {last_validation(line):.4f}"
                values = ", ".join(f"{name} {value}" for name, value in setting.items())
                say(f"{workload.name} | {contender.name} | seed {seed} | {values} | {shown} | {took:.1f} s")
    return True


def missing(workload: Workload, contender: Contender, results: Results, trials: int, seeds: int) -> Iterator[Line]:
    """The runs to make, each as the beginning of its line; trials depend on the lines of those before."""
    known: Line = {"workload": workload.name, "steps": workload.steps, "contender": contender.name}
    while True:
        made = results.trials(workload, contender)[:trials]
        setting = next_trial(contender, made, trials)
        if setting is None:
            break
        yield {**known, "setting": setting, "seed": TUNING_SEED}
    reported = chosen(workload, contender, results, trials)
    assert reported is not None
    have = {line["seed"] for line in results.seeds(workload, contender, reported)}
    for seed in range(TUNING_SEED + 1, TUNING_SEED + 1 + seeds):
        if seed not in have:
            yield {**known, "setting": reported, "seed": seed}
