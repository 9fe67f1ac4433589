"""A layer whose first use says less than later ones, and that is in no loop: it stays in weight space."""

import pytest
import torch
from torch import nn

from tests.support.loops import LOOPS, Flow
from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.engine.survey.uses import constant_at_first, lacking
from ts_lightning.errors import TargetSpaceError


class Depth(nn.Module):
    """An attention that is used several times, first behind a narrow layer."""

    def __init__(self):
        super().__init__()
        self.narrow, self.attention = nn.Linear(3, 1), nn.MultiheadAttention(4, 2, batch_first=True)
        self.wide, self.readout = nn.Linear(1, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.wide(self.narrow(x))
        for _ in range(3):
            x = torch.tanh(x + self.attention(x, x, x, need_weights=False)[0])
        return self.readout(x.mean(1))


#: without a way to join uses: a model, the layers that stay, and settings
LEFT = {
    **{case: (make, names, {"method": "ocu"}) for case, (make, names) in LOOPS.items() if "cells" not in case},
    "shared attention": (Depth, {"attention"}, {}),
}


@pytest.mark.parametrize("case", LEFT)
def test_layer_stays_in_weight_space_and_trains(case):
    torch.manual_seed(0)
    make, _, settings = LEFT[case]
    model, x = make(), torch.randn(60, 4, 3)
    space = TargetSpace(model, x, TargetSpaceConfig(**settings))
    reasons = {left.name: left.reason for left in space.left}
    assert {"its first use lacks inputs of later ones", "called step by step"}.intersection(reasons.values())
    for name in reasons:
        assert not any(layer.module_name == name for layer in space.layers)
        assert name in space.describe()
    assert "applied in several ways" not in reasons.values()  # of weights that are left under names of their own
    optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    for key, parameter in model.named_parameters():
        if key.rsplit(".", 1)[0] in reasons and parameter.dim() > 1:
            assert ((parameter - before[key]).abs().sum(0) > 0).all()


@pytest.mark.parametrize("case", ["cell of one layer", "GRU by steps", "shared attention"])
def test_layer_that_was_asked_for_is_refused(case):
    make, names, settings = LEFT[case]
    name = sorted(names)[0].removesuffix(".l0")
    with pytest.raises(TargetSpaceError, match=rf"layer '{name}.*(rows of its first use|called step by step).*exclude"):
        TargetSpace(make(), torch.randn(60, 4, 3), TargetSpaceConfig(layers=[name], **settings))


SOLVED = {
    "over time without it": lambda: Flow(),
    "sequence from zeros": lambda: Chunks(),
}


class Chunks(nn.Module):
    """A recurrent layer on halves of a sequence, which hand their state on."""

    def __init__(self):
        super().__init__()
        self.rnn, self.readout = nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        _, h = self.rnn(x[:, :2])
        return self.readout(self.rnn(x[:, 2:], h)[0][:, -1])


@pytest.mark.parametrize("case", SOLVED)
def test_other_shared_layers_are_solved(case):
    assert not TargetSpace(SOLVED[case](), torch.randn(60, 4, 3)).left


def test_what_is_rare_is_not_lacking():
    torch.manual_seed(0)
    first, later = torch.rand(50, 6).double(), torch.rand(50, 6).double()
    first[:, 0] = later[:, 0] = 0
    later[:5, 0] = 1  # a pixel that is dark in all but some samples
    assert lacking(first, later) == 0
    later[:, 0] = 1
    assert lacking(first, later) == 1


def test_fewer_rows_than_features_lack_nothing():
    torch.manual_seed(0)
    first, later = torch.rand(10, 40).double(), torch.rand(10, 40).double()
    assert lacking(first, later) == 0
    first[:, 3:5] = 0.7
    assert lacking(first, later) == 2


def test_columns_that_are_constant_at_first():
    torch.manual_seed(0)
    first, later = torch.rand(50, 6).double(), torch.rand(50, 6).double()
    first[:, 0] = first[:, 1] = later[:, 0] = 0
    later[:1, 0] = 1  # a word that no sentence begins with
    assert constant_at_first(first, later).tolist() == [False, True, False, False, False, False]
    assert constant_at_first(first, later, 0.01).tolist() == [True, True, False, False, False, False]
