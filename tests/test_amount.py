"""One of a thing is said in the singular, wherever the package counts."""

import pytest
import torch
from torch import nn

import ts_lightning
from ts_lightning.amount import amount
from ts_lightning.report.summary import spaces


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 steps"), (0.7, "1 step"), (1, "1 step"), (1.2, "1 step"), (1200, "1,200 steps")]
)
def test_one_of_a_thing_is_not_said_in_the_plural(count, text):
    assert amount(count, "step") == text


@pytest.mark.parametrize(("count", "text"), [(1, "1 batch"), (2, "2 batches")])
def test_a_plural_may_be_given(count, text):
    assert amount(count, "batch", "batches") == text


def test_target_space_that_ended_after_one_step_says_so():
    assert spaces("target", 1, 4) == "target space for 1 step, then weight space"


@pytest.mark.parametrize("count", [1, 2])
def test_inspection_and_first_line_count_layers_and_samples(count):
    net, x = nn.Sequential(*[nn.Linear(3, 3) for _ in range(count)]), torch.randn(count, 3)
    layers, samples = amount(count, "layer"), amount(count, "reference sample")
    table = str(ts_lightning.inspect(net, x)).splitlines()[0]
    assert f": {layers} solved" in table
    assert table.endswith(samples)
    assert f"of {layers} (" in (line := ts_lightning.TargetSpace(net, x).describe())
    assert f" {samples}, " in line
