"""Moments that processes may have each of its own targets: of a number or a row, and not of many rows."""

import pytest
import torch

from ts_lightning.engine.targets.partition import _of_each

SHAPES = {
    "each number": ((6, 4), True),
    "each row": ((6, 1), True),
    "all, as one number": ((), True),
    "all, as one entry": ((1, 1), True),
    "each column, as of SM3": ((1, 4), False),
    "rows of another form": ((6,), False),
    "a matrix that preconditions": ((4, 4), False),
    "compressed, as of FlashAdamW": ((24,), False),
}


@pytest.mark.parametrize("what", SHAPES)
def test_moments(what):
    shape, expected = SHAPES[what]
    assert _of_each(torch.zeros(shape), torch.zeros(6, 4)) == expected
