"""The measurements behind the defaults.

    python benchmarks/defaults.py mlp cnn --root data

Runs every configuration of the groups named and appends one line of JSON each to benchmarks/results/defaults.jsonl;
what is there already is not run again. benchmarks/defaults_report.py turns the file into the tables and the figure of
docs/defaults.md. Step times in the file are those of whatever else the machine was doing; the tables take theirs from
the group "time", in which weight and target space take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.cases import mlp, paper_cnn
from benchmarks.peers.data import image_set
from benchmarks.training import Data, Task, train
from ts_lightning.recipes.data.spirals import spirals

RESULTS = Path(__file__).parent / "results" / "defaults.jsonl"
SEEDS = (0, 1, 2)
TARGET_LR = 0.002
_MLP_AT = (25, 50, 100, 200, 300)
_CNN_AT = (25, 50, 100, 200)
_TEST = 4000  # images, of those that are classified by convolutions

#: torchvision's: patches of 4 x 4, four blocks, 64 wide
_VIT = partial(VisionTransformer, 32, 4, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=128, num_classes=10)

TASKS: dict[str, Task] = {
    f"{act} MLP, {depth} layers": Task(
        partial(mlp, depth, 784, 64, 10, activation), "mnist", _MLP_AT, gain=5 / 3 if act == "tanh" else 2**0.5
    )
    for act, activation in (("tanh", nn.Tanh), ("ReLU", nn.ReLU))
    for depth in (5, 10, 30, 50)
}
for depth in (1, 2, 3, 5, 10):
    TASKS[f"ReLU MLP, SGD, {depth} layers"] = Task(partial(mlp, depth, 784, 64, 10, nn.ReLU), "mnist", (200,))
TASKS["CNN, Fashion-MNIST"] = Task(partial(paper_cnn, 1, 28), "fashion_mnist", _CNN_AT, gain=1.387, slope=0.2)
TASKS["CNN, CIFAR-10"] = Task(paper_cnn, "cifar10", _CNN_AT, gain=1.387, slope=0.2)
TASKS["CNN, digits"] = Task(partial(paper_cnn, 1, 8), "digits", _CNN_AT, gain=1.387, slope=0.2)
TASKS["ViT, CIFAR-10"] = Task(_VIT, "cifar10", _CNN_AT)
TASKS["two spirals"] = Task(partial(mlp, 4, 2, 12, 2), "spirals", (250, 500, 1000, 2000), batch=None)

SGD = [name for name in TASKS if "SGD" in name]
MLPS = [name for name in TASKS if "MLP" in name and name not in SGD]
CNNS = ["CNN, Fashion-MNIST", "CNN, CIFAR-10"]
VITS = ["ViT, CIFAR-10"]

Run = tuple[str, str, float, int, dict[str, Any]]  # task, space, lr, seed, settings


def weight(
    names: list[str], starts: tuple[str, ...], lrs: tuple[float, ...], seeds: tuple[int, ...] = SEEDS
) -> Iterator[Run]:
    """The grid that weight space is tuned on."""
    for name in names:
        for how in starts:
            for lr in lrs:
                for seed in seeds:
                    yield name, "weight", lr, seed, {"start": how}


def target(
    names: list[str],
    settings: list[dict[str, Any]],
    lrs: tuple[float, ...] = (TARGET_LR,),
    seeds: tuple[int, ...] = SEEDS,
) -> Iterator[Run]:
    """Runs in target space; {} is the defaults."""
    for name in names:
        for setting in settings:
            for lr in lrs:
                for seed in seeds:
                    yield name, "target", lr, seed, setting


#: of convolutions: the default, all rows, and the default's rows with ridge and unit as where all rows are kept
ROWS: dict[str, dict[str, Any]] = {
    "sample (the default)": {},
    "sample, ridge and unit as for all rows": {"ridge": 1.0, "step_scale": 29.73},
    "all": {"rows": "all"},
}
SCALES = {
    "variance": (0.1, 0.3, 1.0, 2.0, 4.0),
    "mean": (0.1, 0.3, 1.0),
    "feature": (0.1, 0.3, 1.0),
    "absolute": (0.1, 1.0, 10.0),
}
PROBES = ["tanh MLP, 5 layers", "tanh MLP, 30 layers", "ReLU MLP, 5 layers", "ReLU MLP, 30 layers"]


def groups() -> dict[str, list[Run]]:
    """Every group of runs by name."""
    ridges = [{"ridge_scale": scale, "ridge": ridge} for scale, values in SCALES.items() for ridge in values]
    starts = [{"init_std": std} for std in (0.35, 0.5, 1.0)] + [
        {"init": "projected", "init_std": std} for std in (0.6, 1.0)
    ]
    sizes: list[dict[str, Any]] = [{"size": size} for size in (50, 100, 400)]
    return {
        "mlp": [
            *target(MLPS, [{}]),
            *weight(MLPS, ("pytorch", "xavier", "he", "orthogonal"), (3e-4, 1e-3, 3e-3, 1e-2)),
        ],
        "spirals": [
            *target(["two spirals"], [{}, {"ridge": 0.1}], (0.0005, TARGET_LR)),
            *weight(["two spirals"], ("pytorch", "xavier"), (0.01, 0.03)),
        ],
        # weight space is tuned on one seed, and its best setting trained on the others
        "cnn": [
            *target(CNNS, [{}]),
            *weight(CNNS, ("pytorch", "he"), (3e-4, 1e-3, 3e-3), seeds=(0,)),
            *weight(CNNS, ("he",), (1e-3,), seeds=(1, 2)),
        ],
        "vit": [
            *target(VITS, [{}, {"exclude": ["*.self_attention"]}]),
            *weight(VITS, ("pytorch", "xavier"), (3e-4, 1e-3, 3e-3)),
        ],
        "rows": list(target([*CNNS, "CNN, digits"], list(ROWS.values()))),
        "ridge": list(target(PROBES, ridges, seeds=(0,))),
        "start": list(target(PROBES, starts, seeds=(0,))),
        "size": list(target(PROBES, sizes, seeds=(0,))),
        "sgd": [
            run
            for how, lrs in (("sgd", (0.1,)), ("momentum", (0.01, 0.1)))
            for run in (
                *target(SGD, [{"optimizer": how}], lrs),
                *((*run[:4], {**run[4], "optimizer": how}) for run in weight(SGD, ("pytorch",), lrs)),
            )
        ],
        "lr": [
            *target(PROBES, [{}], (0.0005, 0.001, 0.004), seeds=(0,)),
            *target(PROBES, [{"optimizer": "sgd"}], (0.1, 0.2, 0.4), seeds=(0,)),
            *target(PROBES, [{"optimizer": "target"}], (0.001, 0.002, 0.004), seeds=(0,)),
        ],
    }


@cache
def load(name: str, root: Path, cifar: Path | None) -> Data:
    """Images as float in 0 ... 1 (NCHW), flattened for MNIST."""
    if name == "spirals":
        return (*spirals(), *spirals(0.5))
    images = image_set(root, name, cifar)
    x, x_test = (a.float() / 255 if a.dtype == torch.uint8 else a for a in (images.x_train, images.x_test))
    if name in ("fashion_mnist", "cifar10"):
        return x, images.y_train, x_test[:_TEST], images.y_test[:_TEST]
    if name == "mnist":
        x, x_test = x.flatten(1), x_test.flatten(1)
    return x, images.y_train, x_test, images.y_test


def key(run: Run) -> str:
    """What a run is known by in the file."""
    return json.dumps(run, sort_keys=True)


def measured() -> dict[str, dict[str, Any]]:
    """The runs in the file."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {key(tuple(line["run"])): line for line in map(json.loads, lines)}


def step_times(root: Path, cifar: Path | None, rounds: int) -> Iterator[dict[str, Any]]:
    """Milliseconds of a step in both spaces, the spaces taking turns."""
    for name in [*MLPS, *CNNS, "CNN, digits", *VITS]:
        task = TASKS[name]
        short = Task(task.build, task.data, (12,), task.batch)
        x, y, x_test, y_test = load(task.data, root, cifar)
        data = x, y, x_test[:500], y_test[:500]
        variants: list[dict[str, Any]] = [{}, {"rows": "all"}] if "CNN" in name else [{}]
        times: dict[str, list[float]] = {}
        for _ in range(rounds):
            times.setdefault("weight", []).append(train(short, data, "weight", 1e-3, 0, {"start": "pytorch"})["ms"])
            for settings in variants:
                label = str(settings.get("rows", "auto"))
                times.setdefault(label, []).append(train(short, data, "target", 1e-3, 0, settings)["ms"])
        yield {"run": [name, "time", 0, 0, {}], "ms": {label: statistics.median(ms) for label, ms in times.items()}}


def main() -> None:
    """Run the groups named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", choices=[*groups(), "time"])
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder of torchvision's data sets")
    parser.add_argument("--cifar", type=Path, help="an archive to read CIFAR-10 from instead (see ts_lightning.data)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    RESULTS.parent.mkdir(exist_ok=True)
    known = measured()
    for group in args.groups:
        if group == "time":
            with RESULTS.open("a") as file:
                for line in step_times(args.root, args.cifar, rounds=2):
                    print(json.dumps(line), file=file, flush=True)
                    print(line["run"][0], line["ms"], flush=True)
            continue
        runs = groups()[group]
        for number, run in enumerate(runs, 1):
            if key(run) in known:
                continue
            name, space, lr, seed, settings = run
            found = train(TASKS[name], load(TASKS[name].data, args.root, args.cifar), space, lr, seed, settings)
            with RESULTS.open("a") as file:
                print(json.dumps({"run": run, **found}), file=file)
            print(
                f"{group} {number}/{len(runs)}: {name}, {space} {lr} {settings} seed {seed}: {found['test']}",
                flush=True,
            )


if __name__ == "__main__":
    main()
