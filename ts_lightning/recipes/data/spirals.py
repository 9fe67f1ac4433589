"""Two interleaved spirals (Lang and Witbrock, 1988): 194 training points, and as many test points between them.

For i = 0 ... 96, with radius 0.65 + 0.0609375 i and angle i pi / 16, the point (r cos, r sin) is of class 0 and its
negative of class 1; the test points stand at i + 1/2. The radius has no unit and reaches 6.5.
"""

from __future__ import annotations

import math

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

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


class _Repeated(Dataset[tuple[Tensor, ...]]):
    """All points of ``data`` as one item, ``times`` over: the samplers that the Trainer puts in give whole numbers."""

    def __init__(self, data: TensorDataset, times: int) -> None:
        self.data, self.times = data, times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.data.tensors


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
        return DataLoader(_Repeated(self.train, self.steps_per_epoch), batch_size=None)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All test points in one batch."""
        return DataLoader(_Repeated(self.test, 1), batch_size=None)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All test points in one batch."""
        return self.val_dataloader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """All test points in one batch."""
        return self.val_dataloader()
