"""At which learning rate, and from which start, TargetAdam trains recurrent networks: memories, sums, states and text.

    python benchmarks/recurrent.py --data FOLDER   # measures what is missing, writes results/recurrent.jsonl
    python -m benchmarks.evidence                  # the tables, in docs/evidence_settings.md

Workloads, schedule and the untuned target space are those of ``benchmarks/peers``, with five seeds. One setting is
changed at a time: the learning rate, or ``init_std``.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.pages import markdown, options
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.once import ends, train_once
from benchmarks.peers.results import Results
from benchmarks.peers.tables import percent
from benchmarks.peers.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "recurrent.jsonl")
CHOSEN = ["recall-20", "recall-40", "recall-60", "adder-20", "s3-16", "permuted-rows", "trec-rnn"]
RATES = (0.002, 0.004, 0.008, 0.016)
STARTS = (0.1, 0.2, 0.4)
SEEDS = (1, 2, 3, 4, 5)


def _table(choices: list[dict[str, float]], head: list[str]) -> str:
    """The test metric at the end, in per cent, of each choice."""
    found = {name: [ends(RESULTS, workload=name, **choice) for choice in choices] for name in CHOSEN}
    rows = [[WORKLOADS[name].title, *map(percent, values)] for name, values in found.items()]
    return markdown(["workload", *head], rows)


def tables() -> dict[str, str]:
    """Of rates and of starts."""
    rates = [{"lr": rate} for rate in RATES]
    starts = [{"init_std": std} for std in STARTS]
    return {
        "recurrent rates": _table(rates, [f"{rate:g}" for rate in RATES]),
        "recurrent starts": _table([rates[0], *starts], ["default", *(f"{std:g}" for std in STARTS)]),
    }


def main() -> None:
    """Measure what is missing."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    contender = CONTENDERS["target-default"]
    changes = [*(("lr", rate) for rate in RATES), *(("init_std", std) for std in STARTS)]
    for seed, name, (option, value) in itertools.product(SEEDS, CHOSEN, changes):
        line = {"workload": name, option: value, "seed": seed}
        train_once(RESULTS, line, contender, {**contender.first, option: value}, given.data)


if __name__ == "__main__":
    main()
