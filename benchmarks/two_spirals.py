"""Two spirals over seeds: the step at which all training points are first classified rightly, and test accuracy.

    python benchmarks/two_spirals.py            # every setting, ten seeds
    python benchmarks/two_spirals.py --seeds 3

Full batch, Adam; target space with an absolute ridge of 0.001 and all training points in the reference batch, from the
paper's projected start and from the recipe's normalised one. The table of docs/recipes/two_spirals.md.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.training import accuracy, update
from ts_lightning import TargetSpace
from ts_lightning.recipes.data.spirals import spirals
from ts_lightning.recipes.two_spirals import TanhNetwork, TwoSpirals

SETTINGS = [("normalised", 0.01), ("normalised", 0.03), ("projected", 0.01), ("weight", 0.01), ("weight", 0.03)]
NETWORKS = {"2-12-12-12-2": ((12, 12, 12), False), "2-5-5-5-2 with shortcuts": ((5, 5, 5), True)}


def train(hidden: tuple[int, ...], shortcuts: bool, start: str, lr: float, seed: int, steps: int) -> dict[str, float]:
    """First step at 100 % training accuracy (infinity: never), and test accuracy at 1,000 and at the last step.

    ``start`` is target space's, or "weight" for weight space.
    """
    (x, y), (x_test, y_test) = spirals(), spirals(0.5)
    torch.manual_seed(seed)
    model = TanhNetwork(hidden, shortcuts)
    engine = None if start == "weight" else TargetSpace(model, x, replace(TwoSpirals.target_space, init=start))
    optimizer = torch.optim.Adam(model.parameters() if engine is None else engine.parameters(), lr=lr)
    found = {"first": float("inf")}
    for step in range(steps + 1):
        if step in (1000, steps):
            found["test" if step == steps else "test at 1,000"] = accuracy(model, x_test, y_test)
        out, _ = update(model, x, y, optimizer, engine)
        if found["first"] > step and bool((out.argmax(1) == y).all()):
            found["first"] = step
    return found


def main() -> None:
    """Print the table, one line a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| network | space, start, Adam | first step at 100 %, by seed | median | test at 1,000 | test at the end |")
    print("|---|---|---|---|---|---|")
    for name, (hidden, shortcuts) in NETWORKS.items():
        for start, lr in SETTINGS:
            runs = [train(hidden, shortcuts, start, lr, seed, args.steps) for seed in range(args.seeds)]
            firsts = [run["first"] for run in runs]
            each = ", ".join("never" if first == float("inf") else f"{first:.0f}" for first in firsts)
            middle = statistics.median(firsts)
            shown = "never" if middle == float("inf") else f"{middle:.0f}"
            label = "weight space" if start == "weight" else f"target space, {start}"
            test = [f"{statistics.median(run[key] for run in runs):.3f}" for key in ("test at 1,000", "test")]
            print(f"| {name} | {label}, {lr:g} | {each} | {shown} | {' | '.join(test)} |", flush=True)


if __name__ == "__main__":
    main()
