"""Permuted MNIST, a pixel a step: a vanilla tanh RNN of 128 units over 784 steps, in both spaces.

    python benchmarks/permuted.py --data FOLDER     # measures, writes benchmarks/results/permuted.jsonl and the figure
    python benchmarks/permuted.py --draw            # docs/evidence/permuted.png from the file

Target space has its defaults, Adam 0.002. Weight space has AdamW with decay 0.01 and the identity as its recurrent
weights, at the rate of ``RATES`` with the best validation accuracy after ``TRIAL`` steps. Schedules are those of
``benchmarks/peers`` over the whole budget; seconds are processor time of one thread, of the training steps alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.training import begin
from benchmarks.peers.workload import Data
from benchmarks.peers.workloads import WORKLOADS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "permuted.jsonl"
FIGURE = ROOT / "docs" / "evidence" / "permuted"
WORKLOAD = WORKLOADS["permuted-pixels"]
RATES = (0.0003, 0.001, 0.003)  # of AdamW
TRIAL = 150  # steps
_EVERY = 50  # steps between two measurements
_SAMPLES = 1000  # of the validation split, and of the test split before the end

Line = dict[str, Any]


def train(contender: str, rate: float, data: Data, steps: int, seed: int = 1) -> None:
    """Train for a number of steps, of the schedule over the whole budget, and write a line at each measurement."""
    chosen = CONTENDERS[contender]
    setting = {**chosen.first, "lr": rate}
    runner = begin(WORKLOAD, chosen, data, setting, seed)
    seconds = 0.0
    for step in range(1, steps + 1):
        start = time.process_time()
        loss = runner.step()
        seconds += time.process_time() - start
        if step % _EVERY == 0 or step == steps:
            last = step == WORKLOAD.steps
            test = data.test if last else data.test.part(0, _SAMPLES)
            accuracy = [WORKLOAD.score(runner.model, part) for part in (data.validation.part(0, _SAMPLES), test)]
            found = dict(zip(("validation", "test"), (round(value, 4) for value in accuracy), strict=True))
            line = {"contender": contender, "lr": rate, "seed": seed, "budget": WORKLOAD.steps, "step": step, **found}
            line |= {"loss": round(loss, 4), "seconds": round(seconds, 1), "tested": len(test)}
            with RESULTS.open("a") as file:
                print(json.dumps(line), file=file)
            print(line, flush=True)


def lines(contender: str, rate: float | None = None) -> list[Line]:
    """The measurements on file."""
    every = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return [line for line in every if line["contender"] == contender and rate in (None, line["lr"])]


def best_rate() -> float:
    """AdamW's rate with the best validation accuracy after the trial."""
    trials = {line["lr"]: line["validation"] for line in lines("adamw") if line["step"] == TRIAL}
    return max(trials, key=lambda rate: float(trials[rate]))


def draw() -> None:
    """Test accuracy over steps and over seconds."""
    from ts_lightning.report.drawing import SPACES, figure

    title = "Permuted MNIST, a pixel a step: vanilla RNN of 128 units"
    with figure(FIGURE, title, [4.7, 4.7], 3.2) as panels:
        for contender, rate, space in (("target", None, "target"), ("adamw", best_rate(), "weight")):
            run = lines(contender, rate)
            label = f"{space} space" + ("" if rate is None else f", AdamW {rate:g}")
            for panel, key, name in zip(panels, ("step", "seconds"), ("steps", "seconds, one thread"), strict=True):
                panel.plot(
                    [line[key] for line in run],
                    [100 * line["test"] for line in run],
                    "o-",
                    markersize=3,
                    color=SPACES[space],
                    label=label,
                )
                panel.set_xlabel(name)
        panels[0].set_ylabel("test accuracy in %")
        panels[0].legend()
    FIGURE.with_suffix(".svg").unlink()


def main() -> None:
    """Measure what is missing, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of data sets (default data)")
    parser.add_argument("--draw", action="store_true", help="only draw what is in the file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not given.draw:
        data = WORKLOAD.data(given.data)
        if not lines("target"):
            train("target", CONTENDERS["target"].rate, data, WORKLOAD.steps)
        for rate in RATES:
            if not lines("adamw", rate):
                train("adamw", rate, data, TRIAL)
        if not any(line["step"] == WORKLOAD.steps for line in lines("adamw", best_rate())):
            train("adamw", best_rate(), data, WORKLOAD.steps)
    draw()


if __name__ == "__main__":
    main()
