"""Permuted MNIST, a pixel a step: a vanilla tanh RNN of 128 units over 784 steps, in both spaces.

    python benchmarks/permuted.py --data FOLDER   # measures what is missing, writes benchmarks/results/permuted.jsonl
    python -m benchmarks.evidence                 # the figure, in docs/evidence.md

Target space has its defaults, Adam 0.002. Weight space has AdamW with decay 0.01, at the rate and from the start of
``SETTINGS`` with the best validation accuracy after ``TRIAL`` steps. Over ``LONG`` steps target space has the setting
``OWN``, whose step is cheaper, and AdamW the same as before. Over ``LONGEST`` steps target space alone is trained, by
``FASTER``. Schedules and starts are those of ``benchmarks/peers``; seconds are processor time of one thread, of the
training steps alone.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.pages import options
from benchmarks.peers.contender import Setting
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.figures import logarithmic, png
from benchmarks.peers.results import Line, Results
from benchmarks.peers.training import begin
from benchmarks.peers.workload import Data
from benchmarks.peers.workloads import WORKLOADS
from ts_lightning.report.drawing import SPACES

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Results(ROOT / "benchmarks" / "results" / "permuted.jsonl")
WORKLOAD = WORKLOADS["permuted-pixels"]
DEFAULTS: Setting = CONTENDERS["target"].first
SETTINGS: list[Setting] = [
    {**CONTENDERS["adamw"].first, "lr": rate, "start": start}
    for start in ("data", "orthogonal")
    for rate in (0.0001, 0.0003, 0.001, 0.003)
]
#: TargetAdam 0.004 with own gradients
OWN: Setting = {**CONTENDERS["target-fast"].first, "untangle": 1}
#: the same at twice the rate
FASTER: Setting = {**OWN, "lr": 0.008}
TRIAL = 150  # steps
LONG = 5000  # steps, nine epochs
LONGEST = 14000  # steps, twenty-five epochs
_EVERY = 50  # steps between two measurements, and a fiftieth of a long training
_LOWEST = 40  # per cent that the figure shows
_SAMPLES = 1000  # of the validation split, and of the test split, which is measured whole at the end


def train(contender: str, setting: Setting, data: Data, steps: int, seed: int = 1) -> None:
    """Train for a number of steps, a trial with the short budget's schedule; write a line at each measurement."""
    workload = replace(WORKLOAD, steps=max(steps, WORKLOAD.steps))
    every = max(_EVERY, workload.steps // 50)
    runner = begin(workload, CONTENDERS[contender], data, setting, seed)
    seconds = 0.0
    for step in range(1, steps + 1):
        start = time.process_time()
        loss = runner.step()
        seconds += time.process_time() - start
        if step % every == 0 or step == steps:
            test = data.test if step == workload.steps else data.test.part(0, _SAMPLES)
            validation = round(workload.score(runner.model, data.validation.part(0, _SAMPLES)), 4)
            line = {"contender": contender, "setting": setting, "seed": seed, "steps": steps, "step": step}
            line |= {"validation": validation, "test": round(workload.score(runner.model, test), 4)}
            line |= {"tested": len(test), "loss": round(loss, 4), "seconds": round(seconds, 1)}
            RESULTS.add(line)
            print(line, flush=True)


def run(contender: str, setting: Setting, steps: int) -> list[Line]:
    """The measurements of a run on file; none where it did not come to its end."""
    wanted = {"contender": contender, "setting": dict(setting), "steps": steps}
    found = [line for line in RESULTS.lines if wanted.items() <= line.items()]
    return found if found and found[-1]["step"] == steps else []


def best() -> Setting:
    """AdamW's setting with the best validation accuracy at the end of the trial."""
    return max(SETTINGS, key=lambda setting: float(run("adamw", setting, TRIAL)[-1]["validation"]))


def draw(stem: Path) -> None:
    """Validation accuracy over steps and over seconds."""
    title = "Permuted MNIST, a pixel a step: vanilla RNN of 128 units"
    drawn = (
        ("target", DEFAULTS, WORKLOAD.steps, "target", "-", "target space, Adam 0.002"),
        ("target-fast", OWN, LONG, "target", "--", f"own gradients, {OWN['lr']:g}"),
        ("target-fast", FASTER, LONGEST, "target", ":", f"own gradients, {FASTER['lr']:g}"),
        ("adamw", best(), WORKLOAD.steps, "weight", "-", f"AdamW {best()['lr']:g}"),
        ("adamw", best(), LONG, "weight", "--", f"AdamW {best()['lr']:g}"),
    )
    with png(stem, title, 2, 3.6, columns=2) as panels:
        for contender, setting, steps, space, line, label in drawn:
            lines = run(contender, setting, steps)
            for panel, key, name in zip(panels, ("step", "seconds"), ("steps", "seconds, one thread"), strict=True):
                x, y = [one[key] for one in lines], [100 * one["validation"] for one in lines]
                panel.plot(x, y, f"o{line}", markersize=2, color=SPACES[space], label=f"{label}, {steps:,} steps")
                panel.set_xlabel(name)
                panel.set_ylim(_LOWEST, 100)
        for panel in panels:
            logarithmic(panel, 1, 3)
        panels[0].set_ylabel("validation accuracy in %")


def main() -> None:
    """Measure what is missing."""
    given = options(__doc__).parse_args()
    torch.set_num_threads(1)
    data = WORKLOAD.data(given.data)
    wanted = [("target", DEFAULTS, WORKLOAD.steps), ("target-fast", OWN, LONG), ("target-fast", FASTER, LONGEST)]
    wanted += [("adamw", setting, TRIAL) for setting in SETTINGS]
    for contender, setting, steps in wanted:
        if not run(contender, setting, steps):
            train(contender, setting, data, steps)
    for steps in (WORKLOAD.steps, LONG):
        if not run("adamw", best(), steps):
            train("adamw", best(), data, steps)


if __name__ == "__main__":
    main()
