"""Single test images with an image classifier's predictions: some that it classifies rightly, and some wrongly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ts_lightning.amount import amount
from ts_lightning.callbacks.pictures.predictions import Picture, class_names, percent
from ts_lightning.callbacks.pictures.style import BLUE, INK, ORANGE, figure, plain
from ts_lightning.errors import TargetSpaceError

_COLUMNS = 4
_LONGEST_NAME = 12
_SIDE = 1.12  # inches
#: height of the two lines below an image, as a share of its width
_LINES = 0.36


class SamplePredictions(Picture):
    """Draws ``sample_predictions.png`` and ``.svg``: test images with the predicted and the true class.

    For modules on images x (batch, channels, height, width); those of three channels are drawn in colour, others as
    the mean of their channels. With several processes, images of the first one are drawn. See
    :class:`ts_lightning.callbacks.pictures.predictions.PredictionCallback`.

    Args:
        count: the largest number of rightly classified images, and of wrongly classified images; chosen at random, by
            a fixed seed.

    Examples:
        >>> import torch
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from ts_lightning.pictures import SamplePredictions
        >>> class Brightness(LightningModule):
        ...     def forward(self, x):
        ...         mean = x.mean(dim=(1, 2, 3)).unsqueeze(1)
        ...         return torch.cat([0.5 - mean, mean - 0.5], dim=1)
        ...
        ...     def test_step(self, batch, batch_idx):
        ...         pass
        >>> data = TensorDataset(torch.rand(8, 1, 6, 6), torch.randint(2, (8,)))
        >>> options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        >>> trainer = Trainer(**options, callbacks=[SamplePredictions(4)])
        >>> _ = trainer.test(Brightness(), DataLoader(data, batch_size=4), verbose=False)
        >>> from pathlib import Path
        >>> Path("sample_predictions.png").exists(), Path("sample_predictions.svg").exists()
        (True, True)
    """

    name = "sample_predictions"

    def __init__(self, count: int = 12) -> None:
        self.count = count

    def start(self, trainer: Trainer) -> None:
        """Forget the images of an earlier pass over the data."""
        self._generator = torch.Generator().manual_seed(0)
        self._drawn: dict[bool, _Drawn] = {True: _Drawn(self.count), False: _Drawn(self.count)}
        self._totals = torch.zeros(2)

    def add(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """Let the images of a batch take part in the random choice."""
        if x.dim() != 4:
            raise TargetSpaceError(
                f"SamplePredictions found inputs x {tuple(x.shape)}; expected images, (batch, channels, height, "
                f"width). Take the callback out."
            )
        probabilities = logits.softmax(dim=1)
        probability, predicted = probabilities.max(dim=1)
        right = predicted == y
        lots = torch.rand(len(y), generator=self._generator, dtype=torch.float64)
        for correct, drawn in self._drawn.items():
            chosen = right == correct
            drawn.add(lots[chosen.cpu()], x[chosen], y[chosen], predicted[chosen], probability[chosen])
        self._totals += torch.tensor([int(right.sum()), len(y)])
        self._classes = logits.shape[1]

    def gather(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum the counts over all processes."""
        # a tensor for a tensor; Lightning's annotation allows for anything
        self._totals = trainer.strategy.reduce(self._totals.to(pl_module.device), reduce_op="sum").cpu()  # type: ignore[union-attr]

    def draw(self, trainer: Trainer, pl_module: LightningModule, file_stem: Path) -> None:
        """Draw rightly classified images on the left and wrongly classified ones on the right."""
        names = [plain(name, _LONGEST_NAME) for name in class_names(trainer, pl_module, self._classes)]
        right, total = map(int, self._totals.tolist())
        title = f"sample predictions, {amount(total, f'{self.split} image')}, {percent(right / total)} right"
        rows = math.ceil(max(drawn.kept for drawn in self._drawn.values()) / _COLUMNS)
        tall = max(_height(drawn) for drawn in self._drawn.values())
        width, height = _SIDE * (_COLUMNS + 0.2), _SIDE * (tall + _LINES) * rows + 0.65
        with figure(file_stem, title, [width, width], height) as panels:
            numbers = (right, total - right)
            for panel, (correct, drawn), number in zip(panels, self._drawn.items(), numbers, strict=True):
                share = f"{drawn.kept} of {number:,}" if number else "none"
                panel.set_title(f"classified {'rightly' if correct else 'wrongly'}, {share}")
                _draw(panel, drawn, names, rows * (tall + _LINES), self._range())

    def _range(self) -> tuple[float, float]:
        """The values that are drawn as black and white: 0 and 1, or beyond where images have values beyond."""
        values = torch.cat([drawn.x.flatten() for drawn in self._drawn.values()])
        return min(float(values.min()), 0.0), max(float(values.max()), 1.0)


class _Drawn:
    """A random choice of samples in one pass: every sample draws a number, and those with the smallest are kept.

    Args:
        count: the largest number of samples to keep.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.lots = torch.empty(0, dtype=torch.float64)
        self.x = torch.empty(0)
        self.y = self.predicted = torch.empty(0, dtype=torch.int64)
        self.probability = torch.empty(0)

    @property
    def kept(self) -> int:
        """The number of samples that are kept now."""
        return len(self.lots)

    def add(self, lots: Tensor, x: Tensor, y: Tensor, predicted: Tensor, probability: Tensor) -> None:
        """Let samples take part in the choice; only those that are kept are copied to the CPU."""
        best = lots.argsort()[: self.count]
        given = [values[best.to(values.device)].cpu() for values in (x.float(), y, predicted, probability)]
        if self.kept == 0:
            self.x = self.x.new_empty(0, *x.shape[1:])
        lots = torch.cat([self.lots, lots[best]])
        order = lots.argsort()[: self.count]
        self.lots = lots[order]
        own = (self.x, self.y, self.predicted, self.probability)
        self.x, self.y, self.predicted, self.probability = (
            torch.cat(pair)[order] for pair in zip(own, given, strict=True)
        )


def _height(drawn: _Drawn) -> float:
    """The height of an image as a share of its width, at most 1; 0 where there are no images."""
    return min(drawn.x.shape[2] / drawn.x.shape[3], 1.0) if drawn.kept else 0.0


def _draw(panel: Any, drawn: _Drawn, names: list[str], height: float, ends: tuple[float, float]) -> None:
    """Draw images in rows of four, each one unit wide, with two lines of text below."""
    low, high = ends
    tall = _height(drawn)
    for place in range(drawn.kept):
        middle, top = place % _COLUMNS + 0.5, place // _COLUMNS * (tall + _LINES)
        image = ((drawn.x[place] - low) / (high - low)).clamp(0, 1)
        shown = image.permute(1, 2, 0) if len(image) == 3 else image.mean(dim=0)
        half = 0.47 * min(tall * image.shape[2] / image.shape[1], 1.0)
        extent = (middle - half, middle + half, top + tall, top + 0.06 * tall)
        panel.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
        label, predicted = int(drawn.y[place]), int(drawn.predicted[place])
        said = f"{names[predicted]}, {100 * float(drawn.probability[place]):.0f} %"
        style: Any = {"ha": "center", "va": "top", "fontsize": 7.5}
        panel.text(middle, top + tall + 0.04, said, color=BLUE if label == predicted else ORANGE, **style)
        if label != predicted:
            panel.text(middle, top + tall + 0.04 + _LINES / 2.3, f"is {names[label]}", color=INK, **style)
    panel.set(xlim=(0, _COLUMNS + 0.2), ylim=(height, 0), aspect="equal")
    panel.set_axis_off()
