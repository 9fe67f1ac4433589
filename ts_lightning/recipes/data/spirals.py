"""Two interleaved spirals (Lang and Witbrock, 1988): 194 training points, and as many test points between them.

For i = 0 ... 96, with radius 0.65 + 0.0609375 i and angle i pi / 16, the point (r cos, r sin) is of class 0 and its
negative of class 1; the test points stand at i + 1/2. The radius has no unit and reaches 6.5.
"""

from __future__ import annotations

import math

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ts_lightning.errors import expect

#: points of each class in each split
POINTS = 97
_START, _GROWTH, _TURN = 0.65, 0.0609375, math.pi / 16


def spirals(offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """The points of both spirals at i + ``offset`` for i = 0 ... 96, classes alternating from the inside out.

    Args:
        offset: 0 gives the training points, 0.5 the test points.

    Returns:
        Points (194, 2) in float32, and their classes (194,), 0 or 1, in int64.
    """
    place = torch.arange(POINTS, dtype=torch.float64) + offset
    radius, angle = _START + _GROWTH * place, _TURN * place
    arm = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    points = torch.stack([arm, -arm], dim=1).reshape(2 * POINTS, 2)
    return points.float(), torch.arange(2).repeat(POINTS)


class SpiralsDataModule(LightningDataModule):
    """The two spirals, all training points in every batch.

    Args:
        steps_per_epoch: full-batch steps between two validations; there is no other meaning to an epoch here.
    """

    def __init__(self, steps_per_epoch: int = 50) -> None:
        super().__init__()
        expect("steps_per_epoch", steps_per_epoch, 1)
        self.steps_per_epoch = steps_per_epoch

    def setup(self, stage: str | None = None) -> None:
        """Generate the points."""
        self.train = TensorDataset(*spirals())
        self.test = TensorDataset(*spirals(0.5))

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """``steps_per_epoch`` batches of all training points: x (194, 2), y (194,)."""
        # without automatic batching an index is handed to the data set as it is: a slice takes all points at once
        everything = [slice(None)] * self.steps_per_epoch
        return DataLoader(self.train, batch_size=None, sampler=everything)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All test points in one batch."""
        return DataLoader(self.test, batch_size=None, sampler=[slice(None)])  # type: ignore[arg-type]

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All test points in one batch."""
        return self.val_dataloader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All test points in one batch."""
        return self.val_dataloader()
