"""IMDB reviews by the recipe lstm_nlp, LSTM and vanilla RNN in both spaces, against epochs and against seconds.

    python benchmarks/imdb.py train --root FOLDER    # FOLDER holds the Parquet files; runs that exist are left
    python benchmarks/imdb.py                        # the table, and docs/recipes/lstm_nlp/imdb.png

Both spaces have the same options: batches of 40, word dropout 0.2; the LSTM Adam 0.001 for 8 epochs; the RNN, whose
gradients explode now and then, Adam 0.0003 for 6 epochs, clipping, and 200 steps of reference. Test metrics after each
epoch go to benchmarks/results/imdb.csv; seconds are those of the training steps alone.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import torch
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ts_lightning.recipes import lstm_nlp

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "imdb.csv"
FIGURE = ROOT / "docs" / "recipes" / "lstm_nlp" / "imdb.png"
EPOCHS = {"lstm": 8, "rnn": 6}
OPTIONS = [
    "--data.source=imdb",
    "--data.validation=0",
    "--model.dropout=0.2",
    "--trainer.accelerator=cpu",
    "--threads=1",
]
CELLS = {
    "lstm": ["--model.lr=0.001", "--trainer.gradient_clip_val=null"],
    "rnn": ["--model.lr=0.0003", "--trainer.gradient_clip_val=1", "--model.reference_steps=200"],
}
SPACES: dict[str, list[str]] = {"target": [], "weight": ["--target_space=null"]}
RUNS = [(cell, space) for cell in CELLS for space in SPACES]
_FIELDS = ["cell", "space", "epoch", "steps", "seconds", "accuracy", "loss"]

Row = dict[str, str]


def rows() -> list[Row]:
    """The measurements on file, one for each epoch of each run."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def collect(cell: str, space: str, folder: Path) -> None:
    """Add the test metrics of a run's folder to the file."""
    with (folder / "metrics.csv").open(newline="") as file:
        epochs = {line["steps"]: line for line in csv.DictReader(file) if line.get("test/accuracy")}
    if len(epochs) < EPOCHS[cell]:
        raise SystemExit(f"{folder}: found {len(epochs)} of {EPOCHS[cell]} epochs; delete the folder to train again.")
    known = rows()
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, _FIELDS)
        writer.writeheader()
        writer.writerows(known)
        for epoch, (steps, line) in enumerate(epochs.items(), 1):
            seconds, accuracy, loss = (float(line[key]) for key in ("seconds", "test/accuracy", "test/loss"))
            writer.writerow(
                dict(
                    zip(_FIELDS, [cell, space, epoch, int(float(steps)), f"{seconds:.1f}", accuracy, loss], strict=True)
                )
            )


def of(cell: str, space: str) -> list[Row]:
    """The epochs of one run."""
    return [row for row in rows() if (row["cell"], row["space"]) == (cell, space)]


def table() -> str:
    """Accuracy after each epoch, and the seconds of an epoch."""
    longest = max(EPOCHS.values())
    lines = [["cell", "space", *(f"epoch {n}" for n in range(1, longest + 1)), "best", "s an epoch"]]
    lines.append(["---"] * len(lines[0]))
    for cell, space in RUNS:
        run = of(cell, space)
        if not run:
            continue
        shown = [f"{100 * float(row['accuracy']):.1f}" for row in run]
        shown += [""] * (longest - len(run))
        best = max(float(row["accuracy"]) for row in run)
        each = float(run[-1]["seconds"]) / len(run)
        lines.append([cell, space, *shown, f"{100 * best:.1f}", f"{each:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def figure() -> None:
    """Test accuracy against epochs and against seconds."""
    fig, panels = plt.subplots(1, 2, figsize=(8.4, 3.6), sharey=True, constrained_layout=True)
    for cell, space in RUNS:
        run = of(cell, space)
        if not run:
            continue
        style = {
            "color": "#2166ac" if space == "target" else "#d6604d",
            "linestyle": "-" if cell == "lstm" else "--",
            "marker": "o",
            "markersize": 3,
            "label": f"{cell.upper()}, {space} space",
        }
        accuracy = [float(row["accuracy"]) for row in run]
        for panel, key in zip(panels, ("epoch", "seconds"), strict=True):
            panel.plot([float(row[key]) for row in run], accuracy, **style)
    panels[0].set_xlabel("epochs")
    panels[1].set_xlabel("seconds of training, one CPU core")
    panels[0].set_ylabel("test accuracy")
    panels[0].legend(fontsize=8, loc="lower right")
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.set_xlim(left=0)
    fig.savefig(FIGURE, dpi=110)


def main() -> None:
    """Train what is missing, or print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["train"])
    parser.add_argument("--root", type=Path, help="folder with IMDB's Parquet files; default: the Hugging Face hub")
    parser.add_argument("--out", type=Path, default=Path("runs") / "imdb", help="folder of the runs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what is None:
        print(table())
        figure()
        return
    for cell, space in RUNS:
        folder = args.out / f"{cell}_{space}"
        if of(cell, space):
            continue
        if not (folder / "last.ckpt").exists():
            root = [] if args.root is None else [f"--data.root={args.root}"]
            chosen = [f"--model.cell={cell}", *CELLS[cell], f"--trainer.max_epochs={EPOCHS[cell]}", *SPACES[space]]
            lstm_nlp.main([*OPTIONS, *root, *chosen, f"--out={folder}"])
        collect(cell, space, folder)


if __name__ == "__main__":
    main()
