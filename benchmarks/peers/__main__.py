"""Target space against the strongest optimizers in weight space, to the end of training.

    python -m benchmarks.peers run --data FOLDER                # all that is missing in the results' file
    python -m benchmarks.peers run --workloads tanh-30 digits-100-relu --trials 5 --seeds 3 --minutes 15
    python -m benchmarks.peers time --data FOLDER               # the time of a step, side by side
    python -m benchmarks.peers list                             # the names of workloads and contenders
    python -m benchmarks.evidence                               # docs/evidence.md and its figures

From the repository's root, with the extra ``peers`` installed. A run can be stopped at any time and goes on with the
same command; lines are added to benchmarks/results/peers.jsonl. docs/evidence.md says what is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.protocol import SEEDS, TRIALS, measure
from benchmarks.peers.results import FILE, Results
from benchmarks.peers.timing import time_steps
from benchmarks.peers.workloads import WORKLOADS

T = TypeVar("T")


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "time", "list"])
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"of each contender (default {TRIALS})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of each chosen setting (default {SEEDS})")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of data sets (default data)")
    parser.add_argument("--results", type=Path, default=FILE, help="default benchmarks/results/peers.jsonl")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no further run begins")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default 1)")
    return parser


def _named(parser: argparse.ArgumentParser, names: Sequence[str] | None, known: Mapping[str, T]) -> list[T]:
    if unknown := set(names or ()) - set(known):
        parser.error(f"found {', '.join(sorted(unknown))}; expected of {', '.join(known)}.")
    return [known[name] for name in names or known]


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = _options()
    given = parser.parse_args(argv)
    workloads = _named(parser, given.workloads, WORKLOADS)
    contenders = _named(parser, given.contenders, CONTENDERS)
    torch.set_num_threads(given.threads)
    results = Results(given.results)
    if given.what == "list":
        lines = [(workload.name, f"{workload.group}: {workload.title}") for workload in workloads]
        lines += [(contender.name, contender.label) for contender in contenders]
        width = max(len(name) for name, _ in lines)
        for name, text in lines:
            print(f"{name:<{width}}  {text}")
    elif given.what == "run":
        seconds = 60 * given.minutes
        if not measure(workloads, contenders, results, given.data, given.trials, given.seeds, seconds, _say):
            print("The time is over; the same command goes on.")
    else:
        time_steps(workloads, contenders, results, given.data, given.trials, _say)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
