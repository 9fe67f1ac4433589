"""The two spirals, against the formula written out point by point."""

import math

import pytest
import torch

from ts_lightning.data import SpiralsDataModule
from ts_lightning.recipes.data.spirals import spirals


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_points_follow_the_formula(offset):
    expected = []
    for i in range(97):
        radius, angle = 0.65 + 0.0609375 * (i + offset), (i + offset) * math.pi / 16
        x, y = radius * math.cos(angle), radius * math.sin(angle)
        expected += [([x, y], 0), ([-x, -y], 1)]
    points, classes = spirals(offset)
    torch.testing.assert_close(points, torch.tensor([point for point, _ in expected]))
    assert classes.tolist() == [label for _, label in expected]


def test_every_batch_holds_all_points_and_test_points_lie_between():
    data = SpiralsDataModule(steps_per_epoch=3)
    data.setup()
    batches = list(data.train_dataloader())
    assert len(batches) == 3
    for x, y in batches:
        torch.testing.assert_close(x, spirals()[0])
        assert y.dtype == torch.int64
        assert y.bincount().tolist() == [97, 97]
    ((x, y),) = data.test_dataloader()
    torch.testing.assert_close(x, spirals(0.5)[0])
    assert len(y) == 194
