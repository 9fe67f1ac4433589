"""The tables and the figure of docs/defaults.md, from benchmarks/results/defaults.jsonl.

    python benchmarks/defaults_report.py

Writes each table between its markers (<!-- table: name --> ... <!-- end -->) in docs/defaults.md, and
the figure docs/defaults.png.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.defaults import CNNS, MLPS, PROBES, RESULTS, ROWS, SCALES, SGD, TARGET_LR, TASKS, VITS
from benchmarks.pages import fill, markdown
from ts_lightning.report.drawing import SPACES, figure

PAGE = Path(__file__).resolve().parent.parent / "docs" / "defaults.md"
COMPARED = [*MLPS, *CNNS, *VITS]
DRAWN = ["tanh MLP, 5 layers", "tanh MLP, 30 layers", "CNN, CIFAR-10", "ViT, CIFAR-10"]
Row = dict[str, Any]


def runs() -> dict[tuple[str, str, float, str], list[Row]]:
    """Lines of the file by (task, space, lr, settings), one for each seed."""
    found: dict[tuple[str, str, float, str], list[Row]] = defaultdict(list)
    for line in map(json.loads, RESULTS.read_text().splitlines()):
        task, space, lr, _, settings = line["run"]
        found[task, space, lr, json.dumps(settings, sort_keys=True)].append(line)
    return found


RUNS = runs()
TIMES = {key[0]: lines[-1]["ms"] for key, lines in RUNS.items() if key[1] == "time"}


def mean_curve(lines: list[Row], points: int) -> list[float]:
    """Mean accuracy over seeds at each measured step; a run that failed counts as 0 from there on."""
    curves = [line["test"] + [0.0] * (points - len(line["test"])) for line in lines]
    return [statistics.fmean(values) for values in zip(*curves, strict=True)]


def best_weight(task: str) -> tuple[float, str, list[Row]]:
    """Learning rate, settings and runs of the best weight-space setting: the highest mean accuracy at the last step."""
    points = len(TASKS[task].at)
    options = [
        (lr, settings, lines)
        for (name, space, lr, settings), lines in RUNS.items()
        if (name, space) == (task, "weight")
    ]
    most = max(len(lines) for _, _, lines in options)
    whole = [option for option in options if len(option[2]) == most]
    return max(whole, key=lambda option: mean_curve(option[2], points)[-1])


def target(task: str, lr: float = TARGET_LR, **settings: Any) -> list[Row]:
    """Runs in target space that differ from the defaults in ``settings``."""
    return RUNS[task, "target", lr, json.dumps(settings, sort_keys=True)]


def percent(value: float) -> str:
    """An accuracy in per cent."""
    return f"{100 * value:.1f}"


def main_table() -> str:
    """Every task: target space at its defaults against the best of weight space, by step and in seconds."""

    def rows() -> Iterator[list[str]]:
        for task in COMPARED:
            at = TASKS[task].at
            lr, settings, lines = best_weight(task)
            ms = TIMES.get(task, {})
            for label, curve, each in (
                ("target", mean_curve(target(task), len(at)), ms.get("auto")),
                (f"weight ({json.loads(settings)['start']}, {lr:g})", mean_curve(lines, len(at)), ms.get("weight")),
            ):
                seconds = "" if each is None else f"{each * at[-1] / 1e3:.1f}"
                step = "" if each is None else f"{each:.1f}"
                values = dict(zip(at, curve, strict=True))
                shown = [percent(values[s]) if s in values else "" for s in (25, 50, 100, 200, 300)]
                yield [task if label == "target" else "", label, *shown, step, seconds]

    return markdown(["task", "space", "25", "50", "100", "200", "300", "ms a step", "s in all"], rows())


def seconds_table() -> str:
    """Accuracy after the time that weight space takes for all its steps."""

    def at_time(curve: list[float], at: tuple[int, ...], each: float, limit: float) -> float:
        reached = [value for step, value in zip(at, curve, strict=True) if step * each <= limit]
        return max(reached, default=float("nan"))

    def rows() -> Iterator[list[str]]:
        for task in COMPARED:
            if task not in TIMES:
                continue
            at, ms = TASKS[task].at, TIMES[task]
            _, _, lines = best_weight(task)
            weight, mine = mean_curve(lines, len(at)), mean_curve(target(task), len(at))
            limit = ms["weight"] * at[-1]
            own = at_time(mine, at, ms["auto"], limit)
            yield [task, f"{limit / 1e3:.1f}", percent(weight[-1]), percent(own), f"{ms['auto'] / ms['weight']:.1f}"]

    return markdown(["task", "seconds", "weight space", "target space", "step, target / weight"], rows())


def spirals_table() -> str:
    """Two spirals: steps to 100 % and test accuracy."""

    def rows() -> Iterator[list[str]]:
        options = [(key, lines) for key, lines in RUNS.items() if key[0] == "two spirals" and key[1] != "time"]
        for (_, space, lr, settings), lines in sorted(
            options, key=lambda option: (option[0][1], option[0][3], option[0][2])
        ):
            first = ", ".join("never" if line["first"] is None else str(line["first"]) for line in lines)
            curve = mean_curve(lines, len(TASKS["two spirals"].at))
            shown = settings if settings != "{}" else "defaults"
            yield [space, f"{lr:g}", shown.replace('"', "").strip("{}"), first, *map(percent, curve)]

    return markdown(
        [
            "space",
            "Adam",
            "setting",
            "first step at 100 % (3 seeds)",
            *(f"test at {step}" for step in TASKS["two spirals"].at),
        ],
        rows(),
    )


def rows_table() -> str:
    """Rows of convolutions: accuracy by step, and step time."""

    def rows() -> Iterator[list[str]]:
        for task in [*CNNS, "CNN, digits"]:
            at = TASKS[task].at
            for label, settings in ROWS.items():
                each = TIMES[task][settings.get("rows", "auto")]
                curve = map(percent, mean_curve(target(task, **settings), len(at)))
                yield [task, label, *curve, f"{each:.0f}", f"{each / TIMES[task]['weight']:.2f}"]

    return markdown(["task", "rows", "25", "50", "100", "200", "ms a step", "/ weight space"], rows())


def sgd_table() -> str:
    """Modules with an SGD of their own: accuracy after 200 steps in both spaces."""
    optimizers = [("sgd", 0.1), ("momentum", 0.01), ("momentum", 0.1)]

    def last(task: str, space: str, lr: float, **settings: str) -> str:
        return percent(mean_curve(RUNS[task, space, lr, json.dumps(settings, sort_keys=True)], 1)[-1])

    def rows() -> Iterator[list[str]]:
        for task in SGD:
            cells = []
            for how, lr in optimizers:
                weight = last(task, "weight", lr, optimizer=how, start="pytorch")
                cells.append(f"{weight} / {last(task, 'target', lr, optimizer=how)}")
            yield [task.split(", ")[-1], *cells]

    return markdown(["ReLU MLP", *(f"SGD {lr:g}{', momentum 0.9' * (how != 'sgd')}" for how, lr in optimizers)], rows())


def probe_table(settings: list[tuple[str, float, dict[str, Any]]]) -> str:
    """Accuracy at the last step on the four probes at seed 0, for each (label, lr, settings)."""

    def rows() -> Iterator[list[str]]:
        for label, lr, setting in settings:
            cells = []
            for task in PROBES:
                lines = [line for line in target(task, lr, **setting) if line["run"][3] == 0]
                cells.append(percent(mean_curve(lines, 5)[-1]) if lines else "")
            yield [label, *cells]

    return markdown(["setting", *PROBES], rows())


def draw(stem: Path) -> None:
    """A row for each of four networks, against steps and against seconds: each seed, and their mean."""
    with figure(stem, "", [4.7, 4.7] * len(DRAWN), 2.8) as panels:
        for task, row in zip(DRAWN, zip(panels[::2], panels[1::2], strict=True), strict=True):
            at = TASKS[task].at
            sides = {"target": (target(task), "auto"), "weight": (best_weight(task)[2], "weight")}
            for panel, x in zip(row, ("steps", "seconds"), strict=True):
                for space, (lines, key) in sides.items():
                    places = at if x == "steps" else [step * TIMES[task][key] / 1e3 for step in at]
                    for line in lines:
                        panel.plot(places, 100 * np.array(line["test"]), color=SPACES[space], alpha=0.3, linewidth=0.8)
                    label = f"{space} space" + (", tuned" if space == "weight" else "")
                    mean = 100 * np.array(mean_curve(lines, len(at)))
                    panel.plot(places, mean, color=SPACES[space], linewidth=2.4, label=label)
                panel.set_title(f"{task}: test accuracy, %")
                panel.set_xlabel(x if x == "steps" else "seconds, two CPU cores")
                panel.set_xlim(left=0)
        panels[0].legend(loc="lower right")
    stem.with_suffix(".svg").unlink()


def main() -> None:
    """Write the tables and the figure."""
    adam = TARGET_LR
    probes = {
        "ridge": [
            (f'"{scale}", {ridge:g}', adam, {"ridge": ridge, "ridge_scale": scale})
            for scale, values in SCALES.items()
            for ridge in values
        ],
        "start": [
            ("defaults", adam, {}),
            *((f"init_std {std}", adam, {"init_std": std}) for std in (0.35, 0.5, 1.0)),
            *(
                (f'init "projected", init_std {std}', adam, {"init": "projected", "init_std": std})
                for std in (0.6, 1.0)
            ),
        ],
        "size": [
            *((f"{size} samples", adam, {"size": size}) for size in (50, 100)),
            ("200 samples (default)", adam, {}),
            ("400 samples", adam, {"size": 400}),
        ],
        "lr": [
            *((f"Adam {lr:g}", lr, {}) for lr in (0.0005, 0.001, 0.002, 0.004)),
            *((f"SGD {lr:g}", lr, {"optimizer": "sgd"}) for lr in (0.1, 0.2, 0.4)),
            *((f"TargetAdam {lr:g}", lr, {"optimizer": "target"}) for lr in (0.001, 0.002, 0.004)),
        ],
    }
    tables = {"main": main_table(), "seconds": seconds_table(), "spirals": spirals_table(), "rows": rows_table()}
    tables["sgd"] = sgd_table()
    tables |= {name: probe_table(settings) for name, settings in probes.items()}
    fill(PAGE, tables)
    draw(PAGE.with_suffix(""))


if __name__ == "__main__":
    main()
