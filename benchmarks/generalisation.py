"""Generalisation on little data: test accuracy and test loss at equal training loss, in both spaces.

    python benchmarks/generalisation.py --data FOLDER   # what the results' file lacks, the figure, the table
    python benchmarks/generalisation.py --draw          # docs/evidence/generalisation.png and the table alone

100 and 1,000 digits with an MLP, 1,000 images of Fashion-MNIST with a small CNN, with and without dropout 0.2. Target
space (Adam on digits, which were measured first, and TargetAdam on images; learning rate) and weight space (AdamW;
learning rate, start and weight decay) have the same number of trials by the accuracy on validation data at seed 0, with
dropout anew; five further seeds are reported. The loss of all training samples, without dropout, is measured along
training, and what is compared is the test split where it first falls below a level, on the line between two
measurements. Lines go to benchmarks/results/generalisation.jsonl.
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import mlp
from benchmarks.pages import fill, markdown, options
from benchmarks.peers.contender import Contender
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.data import images, table
from benchmarks.peers.networks import dropped
from benchmarks.peers.protocol import chosen, missing
from benchmarks.peers.results import TUNING_SEED, Results
from benchmarks.peers.tables import percent
from benchmarks.peers.training import begin
from benchmarks.peers.workload import Data, Split, Workload

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "generalisation.jsonl"
FIGURE = ROOT / "docs" / "evidence" / "generalisation"
PAGE = ROOT / "docs" / "claims.md"
TRIALS, SEEDS = 3, 5
LEVELS = (1.0, 0.5, 0.3, 0.1, 0.03, 0.01)  # of the training loss
_SHOWN = (0.5, 0.3, 0.1, 0.03)  # in the table
_DROPOUT = 0.2
_POINTS = 16  # measurements in a run
_SPACES = {"target": CONTENDERS["target-tuned"], "weight": CONTENDERS["adamw"]}

Line = dict[str, Any]


def _cnn() -> nn.Module:
    """Two convolutions and two dense layers, for images of 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(4), nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _fashion(root: Path) -> Data:
    """100 images of each class, and a part of the other splits, which are measured often."""
    data = images(root, "fashion_mnist", per_class=100)
    return Data(data.train, data.validation.part(0, 500), data.test.part(0, 1000))


def _workloads() -> dict[str, Workload]:
    """Each problem without and with dropout, whose name then ends in ``-dropout``."""
    net = partial(mlp, 5, 64, 64, 10, nn.ReLU)
    problems: tuple[tuple[str, str, Callable[[], nn.Module], Callable[[Path], Data], int], ...] = (
        ("digits-100", "100 digits, ReLU MLP of 5 layers", net, lambda root: table("digits", 100, 300), 150),
        ("digits-1000", "1,000 digits, ReLU MLP of 5 layers", net, lambda root: table("digits", 1000, 300), 150),
        ("fashion-1000", "1,000 images of Fashion-MNIST, CNN", _cnn, _fashion, 150),
    )
    found = {}
    for name, title, build, data, steps in problems:
        for end, make in (("", build), ("-dropout", partial(dropped, build, _DROPOUT, nn.ReLU))):
            known, samples = (name + end, "", title), int(name.split("-")[1])
            found[name + end] = Workload(*known, make, data, steps, (0.5,) * 3, "relu", batch=50, samples=samples)
    return found


WORKLOADS = _workloads()


@torch.no_grad()
def _measured(model: nn.Module, split: Split) -> tuple[float, float]:
    """Mean cross entropy and accuracy, in evaluation mode."""
    model.eval()
    out = torch.cat([model(x) for x in split.x.split(500)])
    model.train()
    return float(functional.cross_entropy(out, split.y)), float((out.argmax(1) == split.y).float().mean())


def run(workload: Workload, contender: Contender, data: Data, setting: dict[str, Any], seed: int) -> Line:
    """Train to the end of the budget; loss and accuracy of the three splits along it, in trials without the test."""
    runner = begin(workload, contender, data, setting, seed)
    points = {round(workload.steps ** (i / (_POINTS - 1))) for i in range(_POINTS)}
    found: Line = {"at": [], "train": [], "validation": [], "test": [], "failed": None}
    for step in range(1, workload.steps + 1):
        loss = runner.step()
        if not math.isfinite(loss):
            return {**found, "failed": f"the loss was {loss} at step {step}"}
        if step in points:
            if seed != TUNING_SEED:
                found["at"].append(step)
                found["train"].append(_measured(runner.model, data.train))
                found["test"].append(_measured(runner.model, data.test))
            if step == workload.steps:
                found["validation"].append(_measured(runner.model, data.validation)[1])
    return found


def measure(workload: Workload, results: Results, root: Path, trials: int, seeds: int) -> None:
    """Make the trials and the runs that are missing."""
    data = workload.data(root)
    for contender in _SPACES.values():
        for known in missing(workload, contender, results, trials, seeds):
            line = {**known, **run(workload, contender, data, known["setting"], known["seed"])}
            results.add(line)
            found = line["failed"] or line["validation"]
            print(workload.name, contender.name, line["seed"], line["setting"], found, flush=True)


def at_level(line: Line, level: float) -> tuple[float, float] | None:
    """Test loss and accuracy where the training loss first falls to a level, linear in its logarithm; None: never."""
    for i, (loss, _) in enumerate(line["train"]):
        if loss <= level:
            if i == 0:
                return None  # it was there before the first measurement
            before = line["train"][i - 1][0]
            share = math.log(before / level) / math.log(before / loss)
            first, last = line["test"][i - 1], line["test"][i]
            return first[0] + share * (last[0] - first[0]), first[1] + share * (last[1] - first[1])
    return None


Reported = dict[str, tuple[dict[str, Any], list[Line]]]  # by space: the chosen setting and its runs


def reported(results: Results, trials: int, workloads: Sequence[Workload]) -> dict[str, Reported]:
    """The chosen setting and its runs in each space, of the workloads that were measured in both."""
    found: dict[str, Reported] = {}
    for workload in workloads:
        spaces: Reported = {}
        for space, contender in _SPACES.items():
            setting = chosen(workload, contender, results, trials)
            if setting is not None and (lines := results.seeds(workload, contender, setting)):
                spaces[space] = setting, lines
        if len(spaces) == len(_SPACES):
            seeds = set.intersection(*({line["seed"] for line in lines} for _, lines in spaces.values()))
            found[workload.name] = {
                space: (setting, [line for line in lines if line["seed"] in seeds])
                for space, (setting, lines) in spaces.items()
            }
    if not found:
        raise SystemExit(f"{results.file}: nothing was measured with {trials} trials. Run without --draw.")
    return found


def rows(whole: dict[str, Reported], workloads: Sequence[Workload]) -> str:
    """The table: test accuracy at equal training loss, and both splits at the end."""
    head = ["data", "dropout", "space", *(f"test at training loss {level:g}" for level in _SHOWN)]
    head += ["end: training loss", "end: training accuracy", "end: test accuracy", "setting"]
    lines = []
    for workload in (workload for workload in workloads if workload.name in whole):
        for space, (setting, runs) in whole[workload.name].items():
            first = space == next(iter(_SPACES))
            levels = [[found[1] for run in runs if (found := at_level(run, level))] for level in _SHOWN]
            loss = statistics.fmean(run["train"][-1][0] for run in runs)
            ends = [[run[split][-1][1] for run in runs] for split in ("train", "test")]
            lines.append(
                [
                    workload.title if first else "",
                    ("0.2" if workload.name.endswith("-dropout") else "none") if first else "",
                    space,
                    *(percent(some) if len(some) == len(runs) else "not by all" for some in levels),
                    f"{loss:.2g}",
                    *map(percent, ends),
                    ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in setting.values()),
                ]
            )
    return markdown(head, lines)


def draw(whole: dict[str, Reported], workloads: Sequence[Workload], stem: Path) -> None:
    """Test accuracy and test loss over the training loss, mean and standard deviation over seeds."""
    from matplotlib.ticker import NullFormatter

    from ts_lightning.report.drawing import SPACES, figure

    plain = [one for one in workloads if one.name in whole and not one.name.endswith("-dropout")]
    stem.parent.mkdir(exist_ok=True)
    title = "The test split at equal training loss, mean and standard deviation over seeds"
    with figure(stem, title, [4.7] * 2 * len(plain), 3.0) as panels:
        for workload in (workload for workload in workloads if workload.name in whole):
            dropout = workload.name.endswith("-dropout")
            row = [one.name for one in plain].index(workload.name.removesuffix("-dropout"))
            for space, (_, runs) in whole[workload.name].items():
                for kind, panel in enumerate(panels[2 * row : 2 * row + 2]):
                    found = {level: [v[kind] for run in runs if (v := at_level(run, level))] for level in LEVELS}
                    levels = [level for level, values in found.items() if len(values) == len(runs)]
                    values = [[v * (100 if kind else 1) for v in found[level]] for level in levels]
                    panel.errorbar(
                        [level * (0.97 if space == "target" else 1.03) for level in levels],
                        [statistics.fmean(some) for some in values],
                        [statistics.stdev(some) if len(some) > 1 else 0.0 for some in values],
                        color=SPACES[space], linestyle="--" if dropout else "-", linewidth=1.5,
                        marker="o", markersize=4,
                        label=f"{space} space" + (", dropout 0.2" if dropout else ""),
                    )  # fmt: skip
                    panel.set_ylabel("test accuracy, %" if kind else "test loss")
        for i, panel in enumerate(panels):
            panel.set_xscale("log")
            panel.set_xlim(1.3, 0.007)
            panel.set_xticks(LEVELS, [f"{level:g}" for level in LEVELS])
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.set_xlabel("training loss (training goes to the right)")
            if i % 2 == 0:
                panel.set_title(plain[i // 2].title, fontsize=10)
        handles, names = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=9)
    stem.with_name(f"{stem.name}.svg").unlink()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is missing, draw, and fill the page."""
    parser = options(__doc__, draws=True)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="default: all")
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"of each space (default {TRIALS})")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default {SEEDS}")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    results = Results(RESULTS)
    if not given.draw:
        for name in given.workloads:
            measure(WORKLOADS[name], results, given.data, given.trials, given.seeds)
    workloads = list(WORKLOADS.values())
    whole = reported(results, given.trials, workloads)
    draw(whole, workloads, FIGURE)
    picture = "![Test accuracy and test loss over the training loss in both spaces](evidence/generalisation.png)"
    fill(PAGE, {"generalisation": f"{rows(whole, workloads)}\n\n{picture}"})


if __name__ == "__main__":
    main()
