"""Single trainings beside the protocol, as further tables of the evidence need them."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.peers.contender import Contender, Setting
from benchmarks.peers.results import Line, Results
from benchmarks.peers.training import train
from benchmarks.peers.workloads import WORKLOADS


def train_once(results: Results, line: Line, contender: Contender, setting: Setting, root: Path) -> None:
    """Train with a workload and seed, and add the line to the results, unless it is there.

    Args:
        results: where it is added.
        line: what it is known by, the "workload" and the "seed" among it.
        contender: what trains.
        setting: the contender's.
        root: folder of data sets.
    """
    if results.find(line) is not None:
        return
    workload = WORKLOADS[line["workload"]]
    found = train(workload, contender, workload.data(root), setting, line["seed"], tested=True)
    results.add({**line, **found, "torch": torch.__version__})
    known = ", ".join(f"{name} {value}" for name, value in line.items())
    print(f"{known}: {(found['test'] or ['failed'])[-1]} {found['failed'] or ''}", flush=True)


def ends(results: Results, **wanted: object) -> list[float]:
    """The test metric at the end of every training whose line has these values."""
    lines = [line for line in results.lines if line["test"] and wanted.items() <= line.items()]
    return [line["test"][-1] for line in lines]
