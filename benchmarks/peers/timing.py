"""The time of a step of every contender, measured side by side.

All contenders of a workload train in one process and take turns, a block of steps each, so that whatever else the
machine does falls on all of them. With one thread it is processor time, which on a machine that others use too is that
of the contender alone. A contender's time is the median over blocks of a block's mean step: means, because a
preconditioner that is made every ten steps belongs to all ten of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.contender import Contender
from benchmarks.peers.protocol import chosen
from benchmarks.peers.results import Line, Results
from benchmarks.peers.training import begin
from benchmarks.peers.workload import Workload
from ts_lightning import TargetSpaceError

_BLOCK = 20  # steps, twice as many as from one preconditioner to the next
_STEPS = 200  # of a contender, at most


def time_steps(
    workloads: Sequence[Workload],
    contenders: Sequence[Contender],
    results: Results,
    root: Path,
    trials: int,
    say: Callable[[str], None] = print,
) -> None:
    """Time the workloads whose last timing is of other contenders or settings than are reported now.

    Args:
        workloads: whose steps are timed, each where all trials have been made.
        contenders: that take turns.
        results: gives the settings and takes the times.
        root: folder of data sets.
        trials: the budget that settings are chosen with.
        say: shows progress.
    """
    for workload in workloads:
        settings = {c.name: chosen(workload, c, results, trials) for c in contenders}
        missing = [name for name, setting in settings.items() if setting is None]
        if missing:
            say(f"{workload.name}: not timed, there are trials to make of {', '.join(missing)}")
            continue
        known = results.timing(workload)
        if known is not None and known["settings"] == settings:
            continue
        line = _timed(workload, contenders, settings, root)
        results.add(line)
        say(f"{workload.name}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in line["ms"].items()))


def _timed(workload: Workload, contenders: Sequence[Contender], settings: dict[str, Any], root: Path) -> Line:
    """Every contender's milliseconds for a step."""
    data = workload.data(root)
    runners = {c.name: begin(workload, c, data, settings[c.name], 1) for c in contenders}
    blocks: dict[str, list[float]] = {name: [] for name in runners}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for _ in range(max(1, min(_STEPS, workload.steps) // _BLOCK)):
        for name, runner in list(runners.items()):
            start = clock()
            try:
                for _ in range(_BLOCK):
                    runner.step()
            except (TargetSpaceError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
                del runners[name]  # its run has failed; the blocks before count
                continue
            blocks[name].append((clock() - start) / _BLOCK * 1e3)
    return {
        "timed": workload.name,
        "ms": {name: round(statistics.median(times), 3) for name, times in blocks.items() if times},
        "settings": settings,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
