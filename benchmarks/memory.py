"""Bit sequences over seeds: steps to 99.9 % test accuracy in both spaces, and settings of recurrent layers compared.

    python benchmarks/memory.py tasks rows        # runs what benchmarks/results/memory.jsonl lacks, one line each
    python benchmarks/memory.py                   # prints the tables from the file, draws docs/evidence/memory.png

Adam, batches of 100, in target space the first 100 training sequences over their full length as reference; accuracy on
the 1,000 test sequences every 25 steps. Weight space starts from orthogonal recurrent weights, as the recipe does, or
from the paper's truncated normal, and the transformer of ``attention.py`` from PyTorch's start. The tables of
docs/recipes/rnn_bits.md and docs/defaults.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.attention import AttentionNetwork
from benchmarks.training import target_config, update
from ts_lightning import TargetSpace
from ts_lightning.data import BitsDataModule
from ts_lightning.layers import linear
from ts_lightning.layers import rows as layer_rows
from ts_lightning.layers.recurrent import layer as recurrent
from ts_lightning.recipes.rnn_bits import SOLVED, SPARE, BitClassifier, BitNetwork

RESULTS = Path(__file__).parent / "results" / "memory.jsonl"
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "evidence" / "memory"
_EVERY = 25

#: (task, delay) -> steps given to both spaces, no fewer than the authors' code needed in target space
TASKS = {("recall", 20): 400, ("recall", 40): 600, ("recall", 60): 1400, ("xor", 20): 1950, ("adder", 20): 600}
_PROBES = [("recall", 20), ("recall", 40), ("adder", 20)]

Run = tuple[str, int, str, str, float, int, int, dict[str, Any]]  # task, delay, cell, space, lr, seed, steps, settings


def groups() -> dict[str, list[Run]]:
    """Every group of runs by name."""
    lr = {"target": BitClassifier.lr_target, "weight": BitClassifier.lr_weight}
    settings: list[dict[str, Any]] = [
        {},
        *({"init_std": std} for std in (0.02, 0.1, 0.2, 0.6)),
        *({"ridge": ridge} for ridge in (0.1, 0.5, 1.0, 3.0)),
        *({"step_scale": scale} for scale in (2.0, 10.0, 42.0)),
        {"ridge_scale": "feature", "ridge": 0.001},
        {"ridge_scale": "feature", "ridge": 0.01},
        {"ridge_scale": "mean", "ridge": 0.01},
        {"ridge_scale": "absolute", "ridge": 0.1},
        {"init": "projected", "init_std": 1.0},
    ]
    ten: list[Run] = [
        (task, delay, "rnn", space, lr[space], seed, steps, setting)
        for (task, delay), steps in TASKS.items()
        for space, setting, seeds in (
            ("target", {}, 10),
            ("weight", {"start": "orthogonal"}, 10),
            ("weight", {"start": "paper"}, 3),
        )
        for seed in range(seeds)
    ]
    gated: list[Run] = [
        ("recall", 20, cell, "target", rate, seed, 1500, {})
        for cell in ("lstm", "gru")
        for rate in (0.002, 0.02)
        for seed in range(3)
    ]
    gated += [
        ("recall", 20, cell, "weight", lr["weight"], seed, 1500, {"start": "orthogonal"})
        for cell in ("lstm", "gru")
        for seed in range(3)
    ]
    probes: list[Run] = [
        (task, delay, "rnn", "target", lr["target"], 0, 800, setting) for setting in settings for task, delay in _PROBES
    ]
    large: list[Run] = [
        ("recall", 90, "rnn", "target", 0.01, seed, 150, {"size": 400, "batch": 400, "step_scale": 1.0})
        for seed in range(3)
    ]
    sampled: list[Run] = [
        (task, delay, "rnn", "target", lr["target"], seed, 1400, setting)
        for setting, seeds in (
            *(({"least_rows": rows}, 3) for rows in (512, 1024, 4096)),
            ({"readout_rows": "all"}, 10),
            ({"rows": "all"}, 10),
            ({"rows": "all", "ridge": 0.2}, 10),
            ({"ridge": 1.0}, 3),
        )
        for task, delay in [("recall", 60), *_PROBES]
        for seed in range(seeds)
    ]
    attention: list[Run] = [
        (task, 20, "attention", space, rate, seed, 1000, setting)
        for task in ("xor", "adder")
        for space, rate, setting in (
            ("target", 0.002, {}),
            ("target", 0.002, {"rows": "all"}),
            ("target", 0.002, {"exclude": ["*.self_attn"]}),
            *(("weight", rate, {}) for rate in (0.0003, 0.001, 0.003, 0.01)),
        )
        for seed in range(3)
    ]
    return {"tasks": ten, "cells": gated, "settings": probes, "rows": sampled, "large": large, "attention": attention}


def paper_start(model: nn.Module) -> None:
    """Truncated normal weights of standard deviation sqrt(6 / (in + out)), zero biases."""
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            nn.init.zeros_(parameter)
            continue
        # the recurrent layer is one matrix there, from the bit and the state to the state
        size = 1 + 2 * parameter.shape[0] if "recurrent" in name else sum(parameter.shape)
        std = (6 / size) ** 0.5
        nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)


@contextmanager
def sampling(least: int | None, readout: str | None) -> Iterator[None]:
    """Have other rows than "auto" chooses: so many, or all of the readout's alone, for which there is no setting."""
    with ExitStack() as stack:
        if least is not None:
            stack.enter_context(patch.multiple(layer_rows, _LEAST_ROWS=least, _ROWS_PER_COLUMN=0))
            stack.enter_context(patch.object(recurrent, "_LEAST_SAMPLES", 1))
        if readout is not None:
            stack.enter_context(patch.object(linear, "sequence_rows", lambda columns: sys.maxsize))
        yield


def train(run: Run) -> dict[str, Any]:
    """One run: ``first`` step at which 99.9 % was measured, ``best`` accuracy, ``last`` loss, and ``ms`` of a step."""
    task, delay, cell, space, lr, seed, steps, settings = run
    settings = dict(settings)
    batch = settings.pop("batch", 100)
    data = BitsDataModule(task, delay)
    data.setup()
    (x, y), (x_test, y_test) = data.train.tensors, data.test.tensors
    torch.manual_seed(seed)
    model = AttentionNetwork(delay) if cell == "attention" else BitNetwork(cell, delay + SPARE[task], delay)
    if settings.pop("start", None) == "paper":
        paper_start(model)
    engine = None
    if space == "target":
        with sampling(settings.pop("least_rows", None), settings.pop("readout_rows", None)):
            engine = TargetSpace(model, x[: settings.get("size", 100)], target_config(settings))
    optimizer = torch.optim.Adam(model.parameters() if engine is None else engine.parameters(), lr)
    order = torch.Generator().manual_seed(1000 + seed)
    best, times = 0.0, []
    for step in range(1, steps + 1):
        begin = time.perf_counter()
        chosen = torch.randint(len(x), (batch,), generator=order)
        _, loss = update(model, x[chosen], y[chosen], optimizer, engine)
        times.append(time.perf_counter() - begin)
        if step % _EVERY == 0:
            with torch.no_grad():
                best = max(best, float((model(x_test).argmax(1) == y_test).float().mean()))
            if best >= SOLVED:
                break
    return {
        "first": step if best >= SOLVED else None,
        "best": round(best, 4),
        "loss": loss.item(),
        "ms": round(statistics.median(times) * 1e3, 2),
    }


def measured() -> list[dict[str, Any]]:
    """The lines of the file."""
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def tables() -> Iterator[str]:
    """The runs over seeds, then the settings compared."""
    lines = {json.dumps(line["run"]): line for line in measured()}
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for group in ("tasks", "cells", "rows", "large", "attention"):
        for run in groups()[group]:
            if json.dumps(run) in lines:
                task, delay, cell, space, lr, *_, settings = run
                shown = ", ".join(f"{key} {value}" for key, value in settings.items()) or "defaults"
                found[f"| {task} {delay}, {cell} | {space}, {shown} | {lr:g} |"].append(lines[json.dumps(run)])
    yield "| task | space | Adam | first step at 99.9 %, by seed | median | best, median | of steps | ms a step |"
    yield "|---|---|---|---|---|---|---|---|"
    for label, runs in found.items():
        firsts = [float("inf") if run["first"] is None else run["first"] for run in runs]
        middle = statistics.median(firsts)
        each = ", ".join("-" if run["first"] is None else str(run["first"]) for run in runs)
        best = statistics.median(run["best"] for run in runs)
        ms = statistics.median(run["ms"] for run in runs)
        shown = "-" if middle == float("inf") else f"{middle:g}"
        yield f"{label} {each} | {shown} | {100 * best:.2f} | {runs[0]['run'][6]} | {ms:.1f} |"
    yield ""
    yield "| setting | " + " | ".join(f"{task} {delay}" for task, delay in _PROBES) + " |"
    yield "|---" * (1 + len(_PROBES)) + "|"
    cells: dict[str, list[str]] = defaultdict(list)
    for run in groups()["settings"]:
        line = lines.get(json.dumps(run))
        if line is not None:
            label = ", ".join(f"{key} {value}" for key, value in run[7].items()) or "defaults"
            cells[label].append(f"{100 * line['best']:.1f} %" if line["first"] is None else str(line["first"]))
    for label, values in cells.items():
        yield f"| {label} | " + " | ".join(values) + " |"


def draw(stem: Path = FIGURE) -> None:
    """The step at which each seed of the group "tasks" had 99.9 %; in the last column those that had it never."""
    from ts_lightning.report.drawing import SPACES, figure

    names = [f"{task} over {delay} steps" for task, delay in TASKS]
    kinds = {"target": "o", "orthogonal": "o", "paper": "x"}
    labels = {
        "target": "target space",
        "orthogonal": "weight space, orthogonal start",
        "paper": "weight space, paper start",
    }
    lines = {json.dumps(line["run"]): line for line in measured()}
    never = 4000  # where a run that never had it is drawn
    stem.parent.mkdir(exist_ok=True)
    with figure(stem, "First step at 99.9 % of the test bits, vanilla RNN; a mark for each seed", [9.4], 3.4) as [
        panel
    ]:
        for shift, (kind, marker) in zip((-0.25, 0.0, 0.25), kinds.items(), strict=True):
            runs = [run for run in groups()["tasks"] if (run[7].get("start") or run[3]) == kind]
            found = [(run, lines[json.dumps(run)]) for run in runs if json.dumps(run) in lines]
            firsts = [never if line["first"] is None else line["first"] for _, line in found]
            places = [list(TASKS).index((run[0], run[1])) + shift + 0.02 * (run[5] - 4.5) for run, _ in found]
            colour = SPACES["target" if kind == "target" else "weight"]
            panel.scatter(firsts, places, color=colour, marker=marker, label=labels[kind], s=26, alpha=0.8)
        panel.set_xscale("log")
        panel.set_xticks(
            [25, 50, 100, 200, 500, 1000, 2000, never], ["25", "50", "100", "200", "500", "1,000", "2,000", "never"]
        )
        panel.xaxis.minorticks_off()
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.set_xlabel("steps (never: not within the steps given, 400 to 1,950)")
        panel.figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    stem.with_name(f"{stem.name}.svg").unlink()


def main() -> None:
    """Run the groups named on the command line, or print the tables and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(groups())}; none prints the tables")
    args = parser.parse_args()
    unknown = set(args.groups) - set(groups())
    if unknown:
        parser.error(f"found {', '.join(sorted(unknown))}; expected {', '.join(groups())}.")
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    known = {json.dumps(line["run"]) for line in measured()}
    for group in args.groups:
        runs = [run for run in groups()[group] if json.dumps(run) not in known]
        for number, run in enumerate(runs, 1):
            found = train(run)
            with RESULTS.open("a") as file:
                print(json.dumps({"run": run, **found}), file=file)
            print(f"{group} {number}/{len(runs)}: {run[:-1]} {run[-1]}: {found}", flush=True)
    if not args.groups:
        print("\n".join(tables()))
        draw()


if __name__ == "__main__":
    main()
