"""Existing optimizers on targets and on weights, each at a learning rate that is tuned the same way.

    python benchmarks/optimizers.py          # what benchmarks/results/optimizers.jsonl lacks, the figure, the table
    python benchmarks/optimizers.py --draw   # docs/evidence/optimizers.png and the table of docs/claims.md alone

The protocol is that of ``benchmarks/peers``: a learning rate is bracketed in factors of about three by the validation
metric of seed 0, with the same first rate, grid and number of trials in both spaces; further seeds are reported. Target
space has its defaults, on two spirals the recipe's ridge. Muon moves the matrices of all layers but the last, weights
or targets, and Adam at a tenth of its rate the rest.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import mlp
from benchmarks.pages import fill, markdown
from benchmarks.peers.contender import Contender, Learner, Setting
from benchmarks.peers.data import memory, table
from benchmarks.peers.muon import Muon
from benchmarks.peers.networks import Sequence as Recurrent
from benchmarks.peers.protocol import measure
from benchmarks.peers.results import Results
from benchmarks.peers.starts import start
from benchmarks.peers.summary import Reported, Summary, summary
from benchmarks.peers.tables import duration, middle, percent
from benchmarks.peers.target import target_space
from benchmarks.peers.workload import Data, Split, Workload
from ts_lightning import TargetSpaceConfig
from ts_lightning.recipes.data.spirals import spirals

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "optimizers.jsonl"
FIGURE = ROOT / "docs" / "evidence" / "optimizers"
PAGE = ROOT / "docs" / "claims.md"
TRIALS, SEEDS = 3, 3
_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SPIRALS: Mapping[str, Any] = {"ridge": 0.001, "ridge_scale": "absolute"}  # the recipe's: the turns are sharp

Parameters = Sequence[nn.Parameter]


def _muon(parameters: Parameters, lr: float) -> list[Optimizer]:
    """Muon on matrices, and Adam on the rest and on what belongs to the last layer (its weight, or its targets)."""
    matrices = [p for p in parameters if p.dim() > 1][:-1]
    chosen = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in chosen]
    return [Muon(matrices, lr, weight_decay=0.0), torch.optim.Adam(rest, 0.1 * lr)]


#: label, the rate that is tried first, and what makes the optimizers of some parameters
OPTIMIZERS: dict[str, tuple[str, float, Callable[[Parameters, float], list[Optimizer]]]] = {
    "sgd": ("SGD", 0.1, lambda parameters, lr: [torch.optim.SGD(parameters, lr)]),
    "momentum": ("SGD, momentum 0.9", 0.03, lambda parameters, lr: [torch.optim.SGD(parameters, lr, momentum=0.9)]),
    "rmsprop": ("RMSprop", 0.001, lambda parameters, lr: [torch.optim.RMSprop(parameters, lr)]),
    "adam": ("Adam", 0.003, lambda parameters, lr: [torch.optim.Adam(parameters, lr)]),
    "muon": ("Muon", 0.03, _muon),
}


def _points() -> Data:
    """The turns at i, and between them at i + 1/4 and i + 1/2."""
    return Data(*(Split(*spirals(offset)) for offset in (0.0, 0.25, 0.5)))


WORKLOADS = (
    Workload(
        "spirals",
        "",
        "two spirals, tanh MLP 2-12-12-12-2, 400 steps",
        partial(mlp, 4, 2, 12, 2),
        lambda root: _points(),
        400,
        (0.7, 0.9, 0.99),
        batch=194,
        samples=194,
    ),
    Workload(
        "digits",
        "",
        "1,000 digits, tanh MLP of 10 layers, 100 steps",
        partial(mlp, 10, 64, 64, 10),
        lambda root: table("digits", 1000, 300),
        100,
        (0.8, 0.9, 0.95),
        samples=1000,
    ),
    Workload(
        "recall",
        "",
        "recall over 20 steps, RNN, 60 steps",
        partial(Recurrent, nn.RNN, 1, 23, 2, 20),
        lambda root: memory("recall", 20),
        60,
        (0.75, 0.9, 0.99),
        samples=8000,
    ),
)


def _make(model: nn.Module, workload: Workload, data: Data, setting: Setting, *, optimizer: str, space: str) -> Learner:
    make = OPTIMIZERS[optimizer][2]
    if space == "weight":
        recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
        start(model, "orthogonal" if recurrent else "data", workload.activation, data.train.x)
        return Learner(make(list(model.parameters()), setting["lr"]), workload.steps)
    config = TargetSpaceConfig(**(_SPIRALS if workload.name == "spirals" else {}))
    engine = target_space(model, data, config)
    return Learner(make(list(engine.parameters()), setting["lr"]), workload.steps, engine.pullback, engine.solve)


CONTENDERS = {
    (name, space): Contender(f"{space}-{name}", label, partial(_make, optimizer=name, space=space), _RATES, first)
    for name, (label, first, _) in OPTIMIZERS.items()
    for space in ("target", "weight")
}


def found(file: Path, trials: int, workloads: Sequence[Workload] = WORKLOADS) -> Summary:
    """What is reported: of each workload the optimizers that were measured in both spaces."""
    whole: Summary = {}
    for name in OPTIMIZERS:
        both = [CONTENDERS[name, space] for space in ("target", "weight")]
        for workload, some in summary(Results(file), workloads, both, trials)[0].items():
            whole.setdefault(workload, {}).update(some)
    if not whole:
        raise SystemExit(f"{file}: no optimizer was measured in both spaces with {trials} trials. Run without --draw.")
    return whole


def rows(whole: Summary) -> str:
    """The table: test accuracy at the end, steps to the middle level and the rate that was chosen."""

    def cell(one: Reported | None) -> str:
        if one is None:
            return "not measured yet"
        return f"{percent(one.final)}; {duration(middle(one, seconds=False), seconds=False)}; {one.setting['lr']:g}"

    head = ["optimizer", "space", *(next(iter(some.values())).workload.title for some in whole.values())]
    lines = []
    for (name, space), contender in CONTENDERS.items():
        label = OPTIMIZERS[name][0] if space == "target" else ""
        lines.append([label, space, *(cell(some.get(contender.name)) for some in whole.values())])
    return markdown(head, lines)


def draw(whole: Summary, stem: Path) -> None:
    """Test accuracy at the end by seed, and steps to the middle level, for each optimizer in both spaces."""
    from ts_lightning.report.drawing import SPACES, figure

    labels = [label for label, _, _ in OPTIMIZERS.values()]
    stem.parent.mkdir(exist_ok=True)
    with figure(stem, "Optimizers on targets and on weights", [5.2, 4.2] * len(whole), 2.5) as panels:
        for row, some in enumerate(whole.values()):
            left, right = panels[2 * row : 2 * row + 2]
            workload = next(iter(some.values())).workload
            level = workload.levels[1]
            for (name, space), contender in CONTENDERS.items():
                if contender.name not in some:
                    continue
                one, place = some[contender.name], list(OPTIMIZERS).index(name) + (0.15 if space == "weight" else -0.15)
                style = {"color": SPACES[space], "s": 30}
                left.scatter(
                    [100 * v for v in one.final],
                    [place] * len(one.final),
                    label=f"{space} space" if name == "sgd" else "_",
                    **style,
                )
                steps = one.steps_to(level)
                if math.isfinite(steps):
                    right.scatter([steps], [place], **style)
                else:
                    right.annotate(
                        "never",
                        (0.99, place),
                        xycoords=("axes fraction", "data"),
                        color=SPACES[space],
                        ha="right",
                        va="center",
                        fontsize=9,
                    )
            for panel in (left, right):
                panel.set_yticks(range(len(labels)), labels if panel is left else [""] * len(labels))
                panel.set_ylim(len(labels) - 0.5, -0.5)
            left.set_title(workload.title, fontsize=10)
            left.set_xlabel("test accuracy at the end, % (a dot a seed)")
            right.set_xlabel(f"steps to {100 * level:g} % on validation data (median)")
            right.set_xlim(0, 1.15 * workload.steps)
        handles, names = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(handles, names, loc="outside lower center", ncols=2)
    stem.with_name(f"{stem.name}.svg").unlink()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing, draw, and fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"learning rates of each (default {TRIALS})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default {SEEDS}")
    parser.add_argument("--draw", action="store_true", help="only draw what is in the file")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    if not given.draw:
        measure(
            WORKLOADS,
            list(CONTENDERS.values()),
            Results(RESULTS),
            Path(),
            given.trials,
            given.seeds,
            say=partial(print, flush=True),
        )
    whole = found(RESULTS, given.trials)
    draw(whole, FIGURE)
    picture = "![Test accuracy at the end and steps to the middle level in both spaces](evidence/optimizers.png)"
    fill(PAGE, {"optimizers": f"{rows(whole)}\n\n{picture}"})


if __name__ == "__main__":
    main()
