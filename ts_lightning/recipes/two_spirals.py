"""Two interleaved spirals, told apart by a small tanh network: ``python -m ts_lightning.recipes.two_spirals``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ts_lightning.callbacks.pictures import DecisionRegions
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.config import ReferenceConfig, TargetSpaceConfig
from ts_lightning.errors import expect
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._recipe import first_step, recipe
from ts_lightning.recipes.data import SpiralsDataModule
from ts_lightning.recipes.data.spirals import POINTS
from ts_lightning.report import History


class TanhNetwork(nn.Module):
    """A tanh network with a linear readout of two logits.

    Args:
        hidden: the width of each hidden layer.
        shortcuts: the input of every layer is the network's input and the outputs of all layers before it.
    """

    def __init__(self, hidden: Sequence[int] = (12, 12, 12), shortcuts: bool = False) -> None:
        super().__init__()
        self.shortcuts = shortcuts
        outputs = [*hidden, 2]
        inputs = [2 + sum(hidden[:i]) for i in range(len(outputs))] if shortcuts else [2, *hidden]
        self.layers = nn.ModuleList(map(nn.Linear, inputs, outputs))
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 2) for points (batch, 2)."""
        for layer in self.layers[:-1]:
            h = layer(x).tanh()
            x = torch.cat([x, h], dim=1) if self.shortcuts else h
        logits: Tensor = self.layers[-1](x)
        return logits


class TwoSpirals(Classifier):
    """A classifier of points in the plane.

    Its target space has the paper's small absolute ridge, as the turns are sharp, and every training point in the
    reference batch, but the normalised start, which needs a third of the steps (docs/recipes/two_spirals.md).

    Args:
        hidden: widths of the hidden layers; default [12, 12, 12], with shortcuts [5, 5, 5].
        shortcuts: feed every layer with the input and the outputs of all layers before it.
        lr: Adam's learning rate; default 0.01.
    """

    target_space = TargetSpaceConfig.paper(
        ridge=0.001, init="normalised", reference=ReferenceConfig(size=2 * POINTS, rows="all")
    )
    #: from the table in docs/recipes/two_spirals.md
    lr_target, lr_weight = 0.01, 0.01

    def __init__(self, hidden: list[int] | None = None, shortcuts: bool = False, lr: float | None = None) -> None:
        super().__init__(lr)
        self.save_hyperparameters(logger=False)
        self.hidden = hidden or ([5, 5, 5] if shortcuts else [12, 12, 12])
        expect("hidden", min(self.hidden), 1)
        self.build(TanhNetwork(self.hidden, shortcuts), classes=2)


class SpiralsCLI(TargetSpaceCLI):
    """The recipe's command line."""

    def title(self) -> str:
        """Network and space."""
        widths = "-".join(map(str, [2, *self.model.hidden, 2]))
        return f"two spirals, {widths}{' with shortcuts' if self.model.network.shortcuts else ''}, {self.spaces}"

    def remarks(self, history: History) -> dict[str, str]:
        """When all training points were first classified rightly; each step measures before its own update."""
        return {"first step at 100 % training accuracy": first_step(history, "train/accuracy", 1)}


#: one thread, since more only get in each other's way in layers of this size
DEFAULTS = {
    "threads": 1,
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 1000,
    "trainer.log_every_n_steps": 1,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    recipe("two_spirals", SpiralsCLI, TwoSpirals, SpiralsDataModule, DEFAULTS, [DecisionRegions()], argv)


if __name__ == "__main__":
    main()
