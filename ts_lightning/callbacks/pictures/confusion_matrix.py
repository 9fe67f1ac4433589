"""A confusion matrix of test predictions, in counts and in shares of each true class.

torchmetrics counts. Its own picture of the matrix has one colour scale for right and wrong answers, in which rare
confusions cannot be seen, and the names of many classes overlap, so that the drawing is ours.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from ts_lightning.amount import amount
from ts_lightning.callbacks.pictures.predictions import Picture, class_names, percent
from ts_lightning.callbacks.pictures.style import figure, plain
from ts_lightning.callbacks.wandb import log_confusion_matrix

#: beyond these many classes cells have no numbers, and not every class has its name
_NUMBERED, _NAMED = 20, 40
_LONGEST_NAME = 18


class ConfusionMatrix(Picture):
    """Draws ``confusion_matrix.png`` and ``.svg``; W&B gets its own chart too, ``pictures/confusion_matrix_chart``.

    Class names are ``labels`` of the module or of the data module, if it has as many as there are logits. Counts are
    summed over all processes. See :class:`ts_lightning.callbacks.pictures.predictions.PredictionCallback`.

    Examples:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from ts_lightning.pictures import ConfusionMatrix
        >>> class Larger(LightningModule):
        ...     labels = ("first", "second")
        ...
        ...     def forward(self, x):
        ...         return x
        ...
        ...     def test_step(self, batch, batch_idx):
        ...         pass
        >>> data = TensorDataset(torch.rand(20, 2), torch.randint(2, (20,)))
        >>> trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=[ConfusionMatrix()])
        >>> _ = trainer.test(Larger(), DataLoader(data, batch_size=4), verbose=False)
        >>> from pathlib import Path
        >>> Path("confusion_matrix.png").exists(), Path("confusion_matrix.svg").exists()
        (True, True)
    """

    name = "confusion_matrix"
    _metric: MulticlassConfusionMatrix | None = None
    _counts: Tensor

    def start(self, trainer: Trainer) -> None:
        """Forget the counts of an earlier pass over the data."""
        self._metric = None

    def add(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """Count the predictions of a batch."""
        if self._metric is None:
            self._metric = MulticlassConfusionMatrix(logits.shape[1]).to(logits.device)
        self._metric.update(logits, y)

    def gather(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum the counts: (classes, classes), true classes in rows."""
        assert self._metric is not None
        self._counts = self._metric.compute().cpu()

    def draw(self, trainer: Trainer, pl_module: LightningModule, file_stem: Path) -> None:
        """Draw counts on the left and shares of each true class on the right."""
        labels = class_names(trainer, pl_module, len(self._counts))
        total, right = int(self._counts.sum()), float(self._counts.trace() / self._counts.sum())
        title = f"confusion matrix, {amount(total, f'{self.split} sample')}, {percent(right)} right"
        draw_confusion_matrix(file_stem, self._counts, labels, title)
        log_confusion_matrix(trainer, f"pictures/{self.name}_chart", self._counts.tolist(), labels)


def draw_confusion_matrix(file_stem: Path, counts: Tensor, labels: list[str], title: str) -> None:
    """Draw ``<file_stem>.png`` and ``.svg``.

    Args:
        file_stem: where the files go, without suffix.
        counts: (classes, classes), true classes in rows.
        labels: the label of each class.
        title: over both panels.
    """
    names = [plain(label, _LONGEST_NAME) for label in labels]
    side = _side(len(names))
    margin = 0.4 + 0.08 * max(map(len, names))
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    below = margin if _upright(names) else 0.6
    with figure(file_stem, title, [side + margin / 2 + 0.1] * 2, side + below + 0.75) as (left, right):
        _draw(left, counts.double(), names, [[_count(value) for value in row] for row in counts.tolist()])
        _draw(right, shares.double(), names, [[_share(value) for value in row] for row in shares.tolist()])
        left.set_title("samples")
        left.set_ylabel("true class")
        right.set_title("per cent of the true class")
        right.set_yticklabels([])


def _draw(panel: Any, values: Tensor, names: list[str], texts: list[list[str]]) -> None:
    """Draw one matrix: right answers in blue, wrong ones in orange, on a scale that tells small values from zero."""
    from matplotlib.colors import PowerNorm

    classes, largest = len(names), max(float(values.max()), 1.0 if values.max() <= 1 else 0.0)
    right = torch.eye(classes, dtype=torch.bool)
    panel.set_facecolor("#f6f6f6")
    for colours, other in (("Blues", ~right), ("Oranges", right)):
        shown = values.masked_fill(other | (values == 0), float("nan")).numpy()
        norm = PowerNorm(0.5, 0, 1.15 * largest)
        panel.imshow(shown, cmap=colours, norm=norm, interpolation="nearest", aspect="auto")
    every = 1 if classes <= _NAMED else math.ceil(classes / _NAMED * 2)
    size = 9 if classes <= _NUMBERED else 6.5
    panel.set_xticks(range(0, classes, every), names[::every], fontsize=size, rotation=90 if _upright(names) else 0)
    panel.set_yticks(range(0, classes, every), names[::every], fontsize=size)
    panel.set_xlabel("predicted class")
    panel.tick_params(length=0 if every == 1 else 2)
    panel.grid(visible=False)
    panel.spines[:].set_visible(classes > _NUMBERED)
    if classes > _NUMBERED:
        return
    for edge in range(1, classes):
        panel.axhline(edge - 0.5, color="white", linewidth=1)
        panel.axvline(edge - 0.5, color="white", linewidth=1)
    wide = 72 * 1.4 * _side(classes) / classes  # points that a cell is wide, in characters of that height
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            dark = math.sqrt(float(values[row, column]) / (1.15 * largest)) > 0.6
            colour = "white" if dark else "#333333"
            panel.text(
                column, row, text, ha="center", va="center", fontsize=min(8.5, wide / max(len(text), 1)), color=colour
            )


def _side(classes: int) -> float:
    """The side of a matrix of this many classes, in inches."""
    return min(max(0.44 * classes, 2.4), 6.2)


def _upright(names: list[str]) -> bool:
    """Whether the names below a matrix are too long to be written horizontally."""
    return max(map(len, names)) > 3


def _count(value: int) -> str:
    if value < 100_000:
        return f"{value:,}" if value else ""
    return f"{value / 1000:,.0f}k"


def _share(value: float) -> str:
    if value == 0:
        return ""
    return f"{100 * value:.0f}" if value >= 0.005 else "<1"
