"""What a rate that grows with the targets' distance gives, in every workload that is measured whole.

    python benchmarks/adaptive.py --data FOLDER   # measures what is missing, writes results/adaptive.jsonl
    python benchmarks/adaptive.py --draw          # the tables of docs/evidence.md

Workloads and schedule are those of ``benchmarks/peers``, whose results the other columns are from, with three seeds.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.pages import fill, markdown, options
from benchmarks.peers.contender import Contender, Learner, Setting
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.once import train_once
from benchmarks.peers.protocol import TRIALS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import Reported, Summary, summary
from benchmarks.peers.tables import PEER_NAMES, best_peer, fastest, middle, number, percent
from benchmarks.peers.target import DEFAULTS, TUNED, target_space
from benchmarks.peers.workload import Data, Workload
from benchmarks.peers.workloads import WORKLOADS
from ts_lightning import TargetAdam, TargetSpaceConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "adaptive.jsonl")
RATE = 0.001  # the least one
SEEDS = (1, 2, 3)


def make(model: nn.Module, workload: Workload, data: Data, setting: Setting) -> Learner:
    """The untuned target space, with TargetAdam at a rate that grows."""
    space = target_space(model, data, TargetSpaceConfig())
    optimizer = TargetAdam(space.parameters(), lr=setting["lr"], adaptive_lr=True)
    return Learner([optimizer], workload.steps, space.pullback, space.solve)


ADAPTIVE = Contender("adaptive", "TargetAdam, adaptive rate", make, (RATE,), RATE)


def measured() -> Summary:
    """What the peers' results have whole."""
    return summary(Results(), list(WORKLOADS.values()), list(CONTENDERS.values()), TRIALS)[0]


def page() -> None:
    """The test metric at the end, steps to the middle level, and how often each is first or close to it."""
    rows, first, close = [], [0, 0], [0, 0]
    for name, found in measured().items():
        lines = [line for line in RESULTS.lines if line["workload"] == name]
        if len(lines) < len(SEEDS):
            continue
        peer, quickest = best_peer(found), fastest(found, PEER_NAMES, seconds=False)
        fixed, grown = found[DEFAULTS.name], Reported(peer.workload, ADAPTIVE, dict(ADAPTIVE.first), lines, None)
        for i, one in enumerate((fixed, grown)):
            first[i] += one.mean >= peer.mean
            close[i] += one.mean >= peer.mean - 0.01
        steps = ", ".join(number(middle(one, seconds=False), ",.0f") for one in (fixed, grown))
        theirs = f"{number(middle(quickest, seconds=False), ',.0f')} ({quickest.contender.label})"
        ends = [percent(one.final) for one in (fixed, grown, found[TUNED.name], peer)]
        ends[-1] += f" ({peer.contender.label})"
        rows.append([peer.workload.title, *ends, f"{steps}; {theirs}"])
    count = len(rows)
    for what, counts in (("first, or level with the best peer", first), ("within a point of it", close)):
        rows.append([what, *(f"{reached} of {count}" for reached in counts), "", "", ""])
    head = [DEFAULTS.label, f"the same, adaptive from {RATE:g}", TUNED.label, "best peer"]
    text = markdown(["workload", *head, "steps to the middle level: the first two; fastest peer"], rows)
    fill(ROOT / "docs" / "evidence.md", {"adaptive": text})


def main() -> None:
    """Measure what is missing, and fill the table in."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    if not given.draw:
        for seed, name in itertools.product(SEEDS, measured()):
            line = {"workload": name, "seed": seed}
            train_once(RESULTS, line, ADAPTIVE, ADAPTIVE.first, given.data)
    page()


if __name__ == "__main__":
    main()
