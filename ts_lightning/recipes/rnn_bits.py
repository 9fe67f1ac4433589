"""Bit sequences with a long memory, by a small recurrent network: ``python -m ts_lightning.recipes.rnn_bits``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ts_lightning.amount import amount
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.config import ReferenceConfig, TargetSpaceConfig
from ts_lightning.errors import expect
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._recipe import first_step, recipe
from ts_lightning.recipes._recurrent import Cell, recurrent
from ts_lightning.recipes.data import BitsDataModule
from ts_lightning.report import History

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

    Its reference batch is the first 100 training sequences over their full length, as in the paper.

    Args:
        cell: the recurrent layer - rnn is the vanilla one with tanh.
        units: of the recurrent layer; default delay + 3, for xor and adder delay + 5.
        delay: steps at the beginning at which nothing is asked; default that of the data.
        lr: Adam's learning rate; default 0.002 in target space, 0.001 in weight space.
    """

    target_space = TargetSpaceConfig(reference=ReferenceConfig(size=100))
    lr_target, lr_weight = 0.002, 0.001

    def __init__(
        self, cell: Cell = "rnn", units: int | None = None, delay: int | None = None, lr: float | None = None
    ) -> None:
        super().__init__(lr)
        self.save_hyperparameters(logger=False)
        if units is not None:
            expect("units", units, 1)
        if delay is not None:
            expect("delay", delay, 1)
        if units is not None and delay is not None:
            self.build(BitNetwork(cell, units, delay), classes=2)

    def check_data(self, data: Any) -> None:
        """Refuse another delay than the data's."""
        if isinstance(data, BitsDataModule):
            self.expect_of_data("delay", self.given.delay == data.delay, data.delay)

    def build_for_data(self) -> None:
        """Build the network for the data's delay, with as many units as its task needs."""
        data, given = self.described(BitsDataModule), self.given
        given.update(
            delay=data.delay if given.delay is None else given.delay,
            units=data.delay + SPARE[data.task] if given.units is None else given.units,
        )
        self.build(BitNetwork(given.cell, given.units, given.delay), classes=2)


class BitsCLI(TargetSpaceCLI):
    """The recipe's command line."""

    def title(self) -> str:
        """Task, network and space."""
        data, given = self.datamodule, self.model.given
        units = amount(given.units, "unit")
        return f"{data.task} over {amount(data.delay, 'step')}, {given.cell} of {units}, {self.spaces}"

    def remarks(self, history: History) -> dict[str, str]:
        """The first measurement at which the task was solved."""
        return {f"first measured at {SOLVED:.1%} test accuracy": first_step(history, "test/accuracy", SOLVED)}


#: one thread, since more only get in each other's way in layers of this size
DEFAULTS = {
    "threads": 1,
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 1000,
    "trainer.check_val_every_n_epoch": None,
    "trainer.val_check_interval": 50,
    "trainer.log_every_n_steps": 10,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    recipe("rnn_bits", BitsCLI, BitClassifier, BitsDataModule, DEFAULTS, [], argv)


if __name__ == "__main__":
    main()
