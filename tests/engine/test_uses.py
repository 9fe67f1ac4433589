"""A layer whose first use says less than later ones: its weights would not follow, so it stays in weight space."""

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.engine.uses import lacking
from ts_lightning.errors import TargetSpaceError


class Cell(nn.Module):
    """A recurrent cell of one's own, from a state of zeros: one layer for both, or two."""

    def __init__(self, joint):
        super().__init__()
        self.joint, self.readout = joint, nn.Linear(8, 2)
        self.inputs, self.states = nn.Linear(11 if joint else 3, 8), nn.Linear(8, 8)

    def forward(self, x):
        h = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            given = self.inputs(torch.cat([step, h], 1)) if self.joint else self.inputs(step) + self.states(h)
            h = torch.tanh(given)
        return self.readout(h)


class Stepwise(nn.Module):
    """A recurrent module that is called a step at a time."""

    def __init__(self, kind, start):
        super().__init__()
        self.start, self.rnn, self.readout = start, kind(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, x):
        h = None if self.start is None else torch.full((1, len(x), 8), self.start)
        for t in range(x.shape[1]):
            y, h = self.rnn(x[:, t : t + 1], h)
        return self.readout(y[:, -1])


class Decoder(nn.Module):
    """A decoder that begins with one token."""

    def __init__(self):
        super().__init__()
        self.tokens, self.encoder = nn.Embedding(5, 6), nn.Linear(3, 8)
        self.rnn, self.readout = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        h = torch.tanh(self.encoder(x[:, 0])).unsqueeze(0)
        token = torch.zeros(len(x), 1, dtype=torch.long)
        for _ in range(3):
            y, h = self.rnn(self.tokens(token), h)
            token = (x.sum((1, 2)) > 0).long().unsqueeze(1) + 1
        return self.readout(y[:, -1])


class Flow(nn.Module):
    """A layer over time, which it is given, or with features that begin at zero."""

    def __init__(self, time=False, added=0, doubled=False):
        super().__init__()
        self.time, self.added, self.doubled = time, added, doubled
        width = 3 + added
        self.change = nn.Linear(width * (2 if doubled else 1) + time, width)
        self.readout = nn.Linear(width, 2)

    def forward(self, x):
        start = x = torch.cat([x[:, 0], x.new_zeros(len(x), self.added)], 1)
        for step in range(3):
            given = [x, *[start] * self.doubled, *[torch.full_like(x[:, :1], step / 3)] * self.time]
            x = x + torch.tanh(self.change(torch.cat(given, 1)))
        return self.readout(x)


class Grid(nn.Module):
    """A convolution of images and of a state of zeros."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.Conv1d(4, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 3, x.shape[1])
        for _ in range(3):
            h = torch.tanh(self.cell(torch.cat([x[..., :1].mT, h], 1)))
        return self.readout(h.mean(2))


LEFT = {
    "cell, joint": (lambda: Cell(True), "inputs"),
    "cell, states": (lambda: Cell(False), "states"),
    "RNN by steps": (lambda: Stepwise(nn.RNN, None), "rnn"),
    "LSTM by steps": (lambda: Stepwise(nn.LSTM, None), "rnn"),
    "GRU by steps": (lambda: Stepwise(nn.GRU, None), "rnn"),
    "GRU by steps from a constant": (lambda: Stepwise(nn.GRU, 0.5), "rnn"),
    "decoder": (Decoder, "rnn"),
    "time": (lambda: Flow(time=True), "change"),
    "added features": (lambda: Flow(added=2), "change"),
    "the same twice": (lambda: Flow(doubled=True), "change"),
    "convolutional cell": (Grid, "cell"),
}


@pytest.mark.parametrize("case", LEFT)
def test_layer_stays_in_weight_space_and_trains(case):
    torch.manual_seed(0)
    make, name = LEFT[case]
    model, x = make(), torch.randn(60, 4, 3)
    space = TargetSpace(model, x)
    assert [left.reason for left in space.left if left.name == name] == ["its first use lacks inputs of later ones"]
    assert not any(layer.module_name == name for layer in space.layers)
    assert name in space.describe()
    optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
    before = {key: p.detach().clone() for key, p in model.get_submodule(name).named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    for key, parameter in model.get_submodule(name).named_parameters():
        if "bias_hh" not in key and parameter.dim() > 1:
            assert ((parameter - before[key]).abs().sum(0) > 0).all()


@pytest.mark.parametrize("case", LEFT)
def test_layer_that_was_asked_for_is_refused(case):
    make, name = LEFT[case]
    with pytest.raises(TargetSpaceError, match=rf"layer '{name}.*solved from the rows of its first use.*exclude"):
        TargetSpace(make(), torch.randn(60, 4, 3), TargetSpaceConfig(layers=[name]))


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
