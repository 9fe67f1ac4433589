"""What a rate that grows with the targets' distance gives, in every workload that is measured whole.

    python benchmarks/adaptive.py --data FOLDER   # measures what is missing, writes results/adaptive.jsonl
    python -m benchmarks.evidence                 # the table, in docs/evidence_settings.md

Workloads and schedule are those of ``benchmarks/peers``, whose results the other columns are from, with five seeds.
Where something is not solved (tables of words, norms, tokens), it is measured at ten times the rate, too.
"""

from __future__ import annotations

import itertools
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.pages import markdown, options
from benchmarks.peers.contender import Contender, Learner, Setting
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.once import train_once
from benchmarks.peers.protocol import TRIALS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import Reported, Summary, summary
from benchmarks.peers.tables import best_peer, duration, fastest_peer, middle, percent
from benchmarks.peers.target import DEFAULTS, TUNED, target_space
from benchmarks.peers.workload import Data, Workload
from benchmarks.peers.workloads import WORKLOADS
from ts_lightning import TargetAdam, TargetSpaceConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "adaptive.jsonl")
RATE = 0.001  # the least one
TIMES = 10  # the rate of what is not solved, in multiples of the targets'
WITH_REST = ("trec-rnn", "trec-lstm", "sst2-rnn", "sst2-lstm", "vit-small", "resnet-small")  # of which some is not
SEEDS = (1, 2, 3, 4, 5)


def make(rest: float, model: nn.Module, workload: Workload, data: Data, setting: Setting) -> Learner:
    """The untuned target space, with TargetAdam at a rate that grows; what is not solved at ``rest`` times that."""
    space = target_space(model, data, TargetSpaceConfig())
    optimizer = TargetAdam(space.parameters(), lr=setting["lr"], rest_lr_mult=rest, adaptive_lr=True)
    return Learner([optimizer], workload.steps, space.pullback, space.solve)


def _contender(rest: float) -> Contender:
    return Contender("adaptive", "TargetAdam, adaptive rate", partial(make, rest), (RATE,), RATE)


def _measured(name: str, rest: float, peer: Reported) -> Reported | None:
    """What was measured of a workload, like a peer's; None until all seeds are."""
    lines = [line for line in RESULTS.lines if line["workload"] == name and line["rest"] == rest]
    contender = _contender(rest)
    return Reported(peer.workload, contender, dict(contender.first), lines, None) if len(lines) == len(SEEDS) else None


def tables(whole: Summary) -> dict[str, str]:
    """The test metric at the end, steps to the middle level, and how often each ends as high as the best peer.

    Args:
        whole: the peers' results.
    """
    rows, high, close = [], [0, 0, 0], [0, 0, 0]
    for name, found in whole.items():
        peer = best_peer(found)
        grown, fixed = _measured(name, 1, peer), found[DEFAULTS.name]
        rested = _measured(name, TIMES, peer) if name in WITH_REST else grown
        if grown is None or rested is None:
            continue
        three = (fixed, grown, rested)
        for i, one in enumerate(three):
            high[i] += one.mean >= peer.mean
            close[i] += one.mean >= peer.mean - 0.01
        steps = [duration(middle(one, seconds=False), seconds=False) for one in (fixed, grown)]
        ends = [percent(one.final) for one in (*three, found[TUNED.name], peer)]
        ends[2] = ends[2] if name in WITH_REST else ""
        ends[-1] += f" ({peer.contender.label})"
        rows.append([peer.workload.title, *ends, *steps, fastest_peer(found, seconds=False)])
    count = len(rows)
    for what, counts in (("at least as high as the best peer", high), ("at most a point below it", close)):
        rows.append([what, *(f"{reached} of {count}" for reached in counts), *[""] * 5])
    head = [DEFAULTS.label, f"adaptive from {RATE:g}", f"and the rest at {TIMES} times", TUNED.label, "best peer"]
    steps = [f"steps: {who}" for who in (*head[:2], "fastest peer")]
    return {"adaptive": markdown(["workload", *head, *steps], rows)}


def main() -> None:
    """Measure what is missing."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    whole, _ = summary(Results(), list(WORKLOADS.values()), list(CONTENDERS.values()), TRIALS)
    for seed, rest, name in itertools.product(SEEDS, (1, TIMES), whole):
        if rest == 1 or name in WITH_REST:
            line = {"workload": name, "rest": rest, "seed": seed}
            train_once(RESULTS, line, _contender(rest), {"lr": RATE}, given.data)


if __name__ == "__main__":
    main()
