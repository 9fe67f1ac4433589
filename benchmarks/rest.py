"""How fast what stays in weight space should learn beside targets: tables of words, norms, tokens and positions.

    python benchmarks/rest.py --data FOLDER   # measures what is missing, writes results/rest.jsonl
    python -m benchmarks.evidence             # the table, in docs/evidence_settings.md

Workloads and schedule are those of ``benchmarks/peers``, with five seeds. TargetAdam trains the targets at 0.002, or
at 0.004 with own gradients and ``untangle="auto"``, and all else at each of ``RATES``.
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
from benchmarks.peers.once import ends, train_once
from benchmarks.peers.results import Results
from benchmarks.peers.tables import percent
from benchmarks.peers.target import target_space
from benchmarks.peers.workload import Data, Workload
from benchmarks.peers.workloads import WORKLOADS
from ts_lightning import TargetAdam, TargetSpaceConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "rest.jsonl")
CHOSEN = ["trec-rnn", "trec-lstm", "vit-small", "resnet-small"]
RATES = (0.002, 0.01, 0.03, 0.1)
SEEDS = (1, 2, 3, 4, 5)
#: rate of the targets, and settings of the target space
FORMS = {
    "TargetAdam 0.002": (0.002, TargetSpaceConfig()),
    "TargetAdam 0.004, own gradients": (0.004, TargetSpaceConfig(cascade_gradient=False, untangle="auto")),
}


def make(form: str, model: nn.Module, workload: Workload, data: Data, setting: Setting) -> Learner:
    """Targets at the rate of the form, and all else at the setting's."""
    lr, config = FORMS[form]
    space = target_space(model, data, config)
    optimizer = TargetAdam(space.parameters(), lr=lr, rest_lr_mult=setting["lr"] / lr)
    return Learner([optimizer], workload.steps, space.pullback, space.solve)


def tables() -> dict[str, str]:
    """The test metric at the end, in per cent."""
    rows = []
    for name, form in itertools.product(CHOSEN, FORMS):
        found = [ends(RESULTS, workload=name, form=form, rest=rate) for rate in RATES]
        if all(len(values) == len(SEEDS) for values in found):
            rows.append([WORKLOADS[name].title, form, *map(percent, found)])
    head = ["workload", "targets", *(f"the rest {rate:g}" for rate in RATES)]
    return {"rest": markdown(head, rows)}


def main() -> None:
    """Measure what is missing."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    for name, seed, form, rate in itertools.product(CHOSEN, SEEDS, FORMS, RATES):
        contender = Contender(form, form, partial(make, form), (rate,), rate)
        line = {"workload": name, "form": form, "rest": rate, "seed": seed}
        train_once(RESULTS, line, contender, {"lr": rate}, given.data)


if __name__ == "__main__":
    main()
