"""Two interleaved spirals, told apart by a small tanh network: ``python -m ts_lightning.recipes.two_spirals``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from ts_lightning import ReferenceConfig, TargetSpaceConfig
from ts_lightning.data import SpiralsDataModule
from ts_lightning.data.spirals import POINTS, spirals
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._figures import BLUE, ORANGE, curves, figure
from ts_lightning.recipes._program import Run, expect, program
from ts_lightning.recipes._report import table
from ts_lightning.recipes._training import Outcome, fit

#: the paper's: a small absolute ridge, as the turns are sharp, and every training point in the reference batch; but the
#: normalised start, which needs a third of the steps (recipes/two_spirals/README.md)
TARGET_SPACE = TargetSpaceConfig.paper(
    ridge=0.001, init="normalised", reference=ReferenceConfig(size=2 * POINTS, rows="all")
)
#: Adam's learning rate in each space, from the table in recipes/two_spirals/README.md
LEARNING_RATES = {"target": 0.01, "weight": 0.01}


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

    Args:
        hidden: the width of each hidden layer.
        shortcuts: all-to-all shortcuts, see :class:`TanhNetwork`.
        lr: Adam's learning rate.
        target_space: settings of target space; ``None`` trains in weight space.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (12, 12, 12),
        shortcuts: bool = False,
        lr: float = LEARNING_RATES["target"],
        target_space: TargetSpaceConfig | None = TARGET_SPACE,
    ) -> None:
        super().__init__(TanhNetwork(hidden, shortcuts), classes=2, lr=lr, target_space=target_space)
        self.save_hyperparameters(ignore=["target_space"], logger=False)


class FirstPerfect(Callback):
    """Notes after how many updates all training points were first classified rightly."""

    step: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at this batch, which holds all training points; it was classified before its own update."""
        if self.step is None and outputs["accuracy"] == 1:
            self.step = trainer.global_step - 1


def train(
    run: Run,
    space: Literal["target", "weight"] = "target",
    shortcuts: bool = False,
    hidden: list[int] | None = None,
    steps: int = 1000,
    lr: float | None = None,
    seed: int = 0,
    validate_every: int = 50,
    accelerator: Literal["auto", "cpu", "cuda"] = "cpu",
    threads: int = 1,
    target_space: TargetSpaceConfig = TARGET_SPACE,
) -> Outcome:
    """Tell two interleaved spirals apart with a small tanh network, full batch, Adam.

    Args:
        run: where the files go.
        space: train targets, or weights (with the same data, network and optimizer).
        shortcuts: feed every layer with the input and the outputs of all layers before it.
        hidden: widths of the hidden layers; default [12, 12, 12], with shortcuts [5, 5, 5].
        steps: optimizer steps.
        lr: Adam's learning rate; default 0.01.
        seed: of initial targets and weights.
        validate_every: steps between two measurements on the test points.
        accelerator: device; auto takes a GPU (CUDA) where there is one. This network is faster on the CPU.
        threads: CPU threads; more than one only get in each other's way in layers of this size.
        target_space: settings of target space; unused in weight space.

    Returns:
        What the run reached.
    """
    expect("--steps", steps, 1)
    expect("--validate_every", validate_every, 1)
    hidden = hidden or ([5, 5, 5] if shortcuts else [12, 12, 12])
    expect("--hidden", min(hidden), 1)
    lr = LEARNING_RATES[space] if lr is None else lr
    expect("--lr", lr, 0, strict=True)
    expect("--threads", threads, 1)
    torch.set_num_threads(threads)
    seed_everything(seed, verbose=False)
    model = TwoSpirals(hidden, shortcuts, lr, target_space if space == "target" else None)
    data = SpiralsDataModule(min(validate_every, steps))
    folder = run.create(lr=lr, hidden=hidden)
    perfect = FirstPerfect()
    outcome = fit(
        model,
        data,
        folder,
        accelerator=accelerator,
        callbacks=[perfect],
        max_steps=steps,
        log_every_n_steps=10,
    )
    title = f"two spirals, {'-'.join(map(str, [2, *hidden, 2]))}{' with shortcuts' if shortcuts else ''}, {space} space"
    with figure(folder, title, [4.3, 4.9], 4.4) as (left, right):
        _draw_regions(left, model)
        _draw_curves(right, outcome, perfect.step)
    reached = "not reached" if perfect.step is None else f"{perfect.step:,}"
    extra = {"first step at 100 % training accuracy": reached}
    print(table(title, outcome, ["test/accuracy", "test/loss", "train/accuracy", "train/loss"], extra, folder))
    return outcome


@torch.no_grad()
def _draw_regions(panel: Any, model: TwoSpirals) -> None:
    """The probability of class 1 over the plane, and the training points."""
    reach, pixels = 7.2, 400
    line = torch.linspace(-reach, reach, pixels)
    grid = torch.cartesian_prod(line, line)
    share = model.cpu().eval()(grid).softmax(dim=1)[:, 1].reshape(pixels, pixels).T
    panel.set_rasterization_zorder(0)  # in the SVG the regions are a picture, all else are lines
    axis, levels = line.numpy(), torch.linspace(0, 1, 12).numpy()
    panel.contourf(axis, axis, share, levels, cmap="RdBu_r", vmin=-0.3, vmax=1.3, alpha=0.75, zorder=-1)
    panel.contour(axis, axis, share, [0.5], colors="white", linewidths=1)
    panel.set_aspect("equal")
    points, classes = spirals()
    for label, colour in ((0, BLUE), (1, ORANGE)):
        panel.scatter(*points[classes == label].T.numpy(), s=14, color=colour, edgecolor="white", linewidth=0.5)
    panel.set_title("decision regions and training points")
    panel.set_xticks([])
    panel.set_yticks([])
    panel.grid(visible=False)


def _draw_curves(panel: Any, outcome: Outcome, perfect: int | None) -> None:
    """Both accuracies against steps."""
    curves(panel, outcome.history, "accuracy", "accuracy on training and test points")
    if perfect is not None:
        panel.axvline(perfect, color="#888888", linewidth=1, linestyle="--", zorder=1)
        text = f"100 % of training\npoints at step {perfect:,}"
        side = (6, "left") if perfect < outcome.steps / 2 else (-6, "right")
        panel.annotate(text, (perfect, 0.6), (side[0], 0), textcoords="offset points", ha=side[1], va="center")
    panel.set_ylim(0.4, 1.02)
    panel.legend(loc="lower right")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    program("two_spirals", train, argv)


if __name__ == "__main__":
    main()
