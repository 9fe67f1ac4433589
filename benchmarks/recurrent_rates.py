"""At which learning rate TargetAdam trains recurrent networks: memories, sums, states and text.

    python benchmarks/recurrent_rates.py --data FOLDER # measures what is missing, writes results/recurrent_rates.jsonl
    python benchmarks/recurrent_rates.py --draw        # the table of docs/evidence.md

Workloads, schedule and the untuned target space are those of ``benchmarks/peers``, with three seeds.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.pages import fill, markdown, options
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.once import ends, train_once
from benchmarks.peers.results import Results
from benchmarks.peers.tables import percent
from benchmarks.peers.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "recurrent_rates.jsonl")
CHOSEN = ["recall-20", "recall-40", "recall-60", "adder-20", "s3-16", "permuted-rows", "trec-rnn"]
RATES = (0.002, 0.004, 0.008, 0.016)
SEEDS = (1, 2, 3)


def page() -> None:
    """The table: the test metric at the end, in per cent."""
    found = {name: [ends(RESULTS, workload=name, lr=rate) for rate in RATES] for name in CHOSEN}
    rows = [[WORKLOADS[name].title, *map(percent, values)] for name, values in found.items()]
    head = ["workload", *(f"{rate:g}" for rate in RATES)]
    fill(ROOT / "docs" / "evidence.md", {"recurrent rates": markdown(head, rows)})


def main() -> None:
    """Measure what is missing, and fill the table in."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    if not given.draw:
        contender = CONTENDERS["target-default"]
        for seed, name, rate in itertools.product(SEEDS, CHOSEN, RATES):
            setting = {**contender.first, "lr": rate}
            train_once(RESULTS, {"workload": name, "lr": rate, "seed": seed}, contender, setting, given.data)
    page()


if __name__ == "__main__":
    main()
