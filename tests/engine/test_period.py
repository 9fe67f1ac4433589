"""The length of a period: how it follows the jumps of the weights, and how the bounds tighten with depth."""

import math

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.engine.untangle.period import Period


@pytest.mark.parametrize(
    ("period", "jump", "then", "layers"),
    [
        *((*case, 3) for case in ((1, 0.2, 1), (8, 0.16, 4), (8, 0.15, 8), (8, 0.05, 8), (8, 0.04, 16), (16, 0.0, 16))),
        (4, math.nan, 4, 3),
        *((*case, 20) for case in ((8, 0.08, 4), (8, 0.07, 8), (8, 0.03, 8), (8, 0.02, 16))),  # half the tolerance
    ],
)
def test_the_period_follows_the_jump(period, jump, then, layers):
    controller = Period("auto", lambda: layers)
    assert controller.length == 1
    controller.length = period
    controller.judge(jump)
    assert controller.length == then


class Read(nn.Module):
    """A recurrent module, and a dense layer on its last outputs."""

    def __init__(self, batch_first):
        super().__init__()
        self.recurrent = nn.GRU(3, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.out = nn.Linear(10, 2)

    def forward(self, x, lengths=None):
        if lengths is not None:
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, self.recurrent.batch_first, enforce_sorted=False)
        return self.out(torch.cat([*self.recurrent(x)[1][-2:]], 1))


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("steps", "then"), [(2, 4), (20, 2)])
def test_bounds_tighten_with_the_steps_of_sequences_too(steps, then, batch_first, lengths):
    torch.manual_seed(0)
    x = torch.randn(9, steps, 3)
    given = (torch.tensor([steps, *[1] * 8]),) if lengths else ()
    batch = (x if batch_first else x.transpose(0, 1), *given)
    space = TargetSpace(Read(batch_first), batch, TargetSpaceConfig(untangle="auto"))
    assert [layer.binding.steps for layer in space.layers] == [steps] * 4 + [1]
    period = space.cascade.untangling.period
    period.length = 4
    period.judge(0.1)  # 5 layers and 2 steps are a depth of 6, and 20 steps one of 24
    assert period.length == then


class Stepping(nn.Module):
    """A recurrence that is written by hand."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.Linear(8, 5), nn.Linear(5, 2)

    def forward(self, x):
        h = x[:, -2:].flatten(1)[:, :5]
        for now in x.unbind(1):
            h = torch.tanh(self.cell(torch.cat([now, h], 1)))
        return self.out(h)


def test_bounds_tighten_with_the_uses_of_one_layer_too():
    torch.manual_seed(0)
    space = TargetSpace(Stepping(), torch.randn(9, 20, 3), TargetSpaceConfig(untangle="auto"))
    assert [layer.uses for layer in space.layers] == [20, 1]
    period = space.cascade.untangling.period
    period.length = 4
    period.judge(0.1)
    assert period.length == 2
