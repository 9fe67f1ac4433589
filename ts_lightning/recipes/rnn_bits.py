"""Bit sequences with a long memory, by a small recurrent network: ``python -m ts_lightning.recipes.rnn_bits``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from ts_lightning import ReferenceConfig, TargetSpaceConfig
from ts_lightning.data import BitsDataModule
from ts_lightning.data.bits import ASKED, TRAINING, Task
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._figures import curves, figure
from ts_lightning.recipes._program import Run, expect, program
from ts_lightning.recipes._recurrent import Cell, recurrent
from ts_lightning.recipes._report import table
from ts_lightning.recipes._training import Outcome, fit

#: the first 100 training sequences over their full length, as in the paper
TARGET_SPACE = TargetSpaceConfig(reference=ReferenceConfig(size=100))
#: Adam's learning rate in each space
LEARNING_RATES = {"target": 0.002, "weight": 0.001}
#: units beyond the delay (paper, section 4.2)
SPARE = {"recall": 3, "xor": 5, "adder": 5}
SOLVED = 0.999


class BitNetwork(nn.Module):
    """A recurrent layer and a dense readout of two logits at every step.

    Args:
        cell: the kind of recurrent layer.
        units: the width of its state.
        delay: steps at the beginning at which nothing is asked.
    """

    def __init__(self, cell: Cell, units: int, delay: int) -> None:
        super().__init__()
        self.delay = delay
        self.recurrent = recurrent(cell, 1, units)
        self.readout = nn.Linear(units, 2)
        nn.init.xavier_uniform_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 2, steps - delay) for sequences (batch, steps, 1)."""
        states, _ = self.recurrent(x)
        logits: Tensor = self.readout(states)
        return logits[:, self.delay :].transpose(1, 2)


class BitClassifier(Classifier):
    """A classifier of the bit that is asked at every step from ``delay`` on.

    Args:
        cell: the kind of recurrent layer.
        units: the width of its state.
        delay: steps at the beginning at which nothing is asked.
        lr: Adam's learning rate.
        target_space: settings of target space; ``None`` trains in weight space.
    """

    def __init__(
        self,
        cell: Cell = "rnn",
        units: int = 23,
        delay: int = 20,
        lr: float = LEARNING_RATES["target"],
        target_space: TargetSpaceConfig | None = TARGET_SPACE,
    ) -> None:
        super().__init__(BitNetwork(cell, units, delay), classes=2, lr=lr, target_space=target_space)
        self.save_hyperparameters(ignore=["target_space"], logger=False)


def train(
    run: Run,
    space: Literal["target", "weight"] = "target",
    task: Task = "recall",
    delay: int = 20,
    cell: Cell = "rnn",
    units: int | None = None,
    steps: int = 1000,
    batch_size: int = 100,
    lr: float | None = None,
    seed: int = 0,
    validate_every: int = 50,
    accelerator: Literal["auto", "cpu", "cuda"] = "cpu",
    threads: int = 1,
    target_space: TargetSpaceConfig = TARGET_SPACE,
) -> Outcome:
    """Remember bits over a long delay with a small recurrent network, Adam.

    Args:
        run: where the files go.
        space: train targets, or weights (with the same data, network, order of data and optimizer).
        task: what to give at each step - recall: the bit of delay steps before; xor: that bit xor the present one;
            adder: the binary sum of the present and the delayed stream, with carry.
        delay: steps to remember a bit for.
        cell: the recurrent layer - rnn is the vanilla one with tanh.
        units: of the recurrent layer; default delay + 3, for xor and adder delay + 5.
        steps: optimizer steps.
        batch_size: sequences in a training batch.
        lr: Adam's learning rate; default 0.002 in target space, 0.001 in weight space.
        seed: of the order of the data, and of initial targets and weights.
        validate_every: steps between two measurements on the test sequences.
        accelerator: device; auto takes a GPU (CUDA) where there is one.
        threads: CPU threads; more than one only get in each other's way in layers of this size.
        target_space: settings of target space; unused in weight space.

    Returns:
        What the run reached.
    """
    expect("--delay", delay, 1)
    units = delay + SPARE[task] if units is None else units
    expect("--units", units, 1)
    expect("--steps", steps, 1)
    expect("--batch_size", batch_size, 1, below=TRAINING + 1)
    expect("--validate_every", validate_every, 1)
    lr = LEARNING_RATES[space] if lr is None else lr
    expect("--lr", lr, 0, strict=True)
    expect("--threads", threads, 1)
    torch.set_num_threads(threads)
    seed_everything(seed, verbose=False)
    model = BitClassifier(cell, units, delay, lr, target_space if space == "target" else None)
    data = BitsDataModule(task, delay, batch_size, seed)
    folder = run.create(lr=lr, units=units)
    outcome = fit(
        model,
        data,
        folder,
        accelerator=accelerator,
        max_steps=steps,
        check_val_every_n_epoch=None,
        val_check_interval=min(validate_every, steps),
        log_every_n_steps=10,
    )
    title = f"{task} over {delay} steps, {cell} of {units} units, {space} space"
    with figure(folder, title, [4.6, 4.6], 3.8) as (left, right):
        curves(left, outcome.history, "accuracy", f"bit accuracy at the {ASKED} steps asked")
        left.axhline(0.5, color="#888888", linewidth=1, linestyle="--", zorder=1)
        curves(right, outcome.history, "loss", "cross-entropy")
        right.set_yscale("log")
    solved = next((point.step for point in outcome.history.points("test/accuracy") if point.value >= SOLVED), None)
    extra = {f"first measured at {SOLVED:.1%} test accuracy": "not reached" if solved is None else f"{solved:,}"}
    print(table(title, outcome, ["test/accuracy", "test/loss", "train/accuracy", "train/loss"], extra, folder))
    return outcome


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    program("rnn_bits", train, argv)


if __name__ == "__main__":
    main()
