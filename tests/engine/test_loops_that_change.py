"""Loops that change or cannot be joined, what is said of them, and what a loop gains."""

import pytest
import torch
from torch import nn

from tests.support.loops import Cells, Stepwise
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError, inspect


class Long(nn.Module):
    """Two cells, one of which is used once less or more often than it was."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.readout, self.change = nn.RNNCell(3, 8), nn.RNNCell(8, 8), nn.Linear(8, 2), 0

    def forward(self, x):
        below = above = None
        for t, step in enumerate(x.unbind(1)):
            below = self.first(step + (0 if above is None else above[:, :3]), below)
            if t > 0 or self.change >= 0:
                above = self.second(below, above)
            if t < 2 and self.change > 0:
                above = self.second(below, above)
        return self.readout(above)


@pytest.mark.parametrize(("change", "found"), [(-1, "3"), (1, "more")])
def test_other_uses_than_at_the_start_are_an_error_that_names_the_layer(change, found):
    torch.manual_seed(0)
    model = Long()
    space = TargetSpace(model, torch.randn(40, 4, 3))
    model.change = change
    with pytest.raises(TargetSpaceError, match=f"layer 'second' had 4 uses in a loop.*found {found}.*exclude"):
        space.solve()


class Fewer(nn.Module):
    """A cell for fewer samples at every step."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.GRUCell(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        h = x.new_zeros(len(x), 8)
        for t, step in enumerate(x.unbind(1)):
            going_on = len(x) - 5 * t
            h = torch.cat([self.cell(step[:going_on], h[:going_on]), h[going_on:]])
        return self.readout(h)


class Halting(nn.Module):
    """A cell that is called as often as its weights say."""

    def __init__(self):
        super().__init__()
        self.cell, self.readout = nn.RNNCell(3, 8), nn.Linear(8, 2)

    def forward(self, x):
        h, steps = x.new_zeros(len(x), 8), 0
        while steps < 2 or (steps < 9 and float(h.detach().abs().mean()) * 1e3 % 2 < 1):
            h, steps = self.cell(x[:, 0], h), steps + 1
        return self.readout(h)


class FromWeight(nn.Module):
    """A recurrent module or a cell, whose first state is made of a weight that is solved behind it."""

    def __init__(self, kind):
        super().__init__()
        self.recurrent, self.readout = kind, nn.Linear(3, 3)

    def forward(self, x):
        h = self.readout.weight.sum(0).repeat(len(x), 1)
        if isinstance(self.recurrent, nn.GRU):
            h = self.recurrent(x, h.unsqueeze(0))[1][0]
        else:
            for step in x.unbind(1):
                h = self.recurrent(step, h)
        return self.readout(x[:, 0]) + h


@pytest.mark.parametrize("kind", [nn.GRU, nn.GRUCell])
def test_a_first_state_of_a_weight_that_is_solved_later_is_refused(kind):
    """The state was not looked at, and weights followed from those of the step before."""
    recurrent = kind(3, 3, batch_first=True) if kind is nn.GRU else kind(3, 3)
    with pytest.raises(TargetSpaceError, match=r"'recurrent.*' depends on the weight of layer 'readout'.*exclude"):
        TargetSpace(FromWeight(recurrent), torch.randn(40, 4, 3))


LEFT = {
    "OCU": (lambda: Cells("RNN"), "first", {"method": "ocu"}),
    "projected": (lambda: Stepwise(nn.LSTM, proj_size=4), "rnn", {}),
    "fewer samples": (Fewer, "cell", {}),
    "as weights say": (Halting, "cell", {}),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_joined_stays_in_weight_space_and_says_why(case):
    make, name, settings = LEFT[case]
    torch.manual_seed(0)
    x = torch.randn(40, 4, 3)
    space = TargetSpace(make(), x, TargetSpaceConfig(**settings))
    (left,) = [left for left in space.left if left.name == name]
    assert left.reason == "called step by step"
    assert name in space.describe()
    with pytest.raises(TargetSpaceError, match=rf"layer '{name}.*exclude"):
        TargetSpace(make(), x, TargetSpaceConfig(layers=[name], **settings))


def test_an_inspection_counts_the_rows_of_all_uses():
    torch.manual_seed(0)
    found = {row.name: row for row in inspect(Cells("LSTM"), torch.randn(40, 4, 3)).rows}
    assert {name: row.sizes[0].rows for name, row in found.items()} == dict.fromkeys(found, 160)
    assert found["second"].kind == "nn.LSTMCell"


@pytest.mark.parametrize("joint", [True, False])
def test_a_hand_written_network_remembers_where_weight_space_does_not(joint):
    """The bit of 20 steps ago, after 50 training steps of the defaults."""
    right = {}
    for solved in (True, False):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        model = Recall(joint)
        space = TargetSpace(model, bits(generator)[0]) if solved else None
        optimizer = torch.optim.Adam(model.parameters() if space is None else space.parameters(), lr=0.002)
        for _ in range(50):
            x, y = bits(generator)
            logits = model(x)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
            if space is not None:
                space.pullback()
            optimizer.step()
            if space is not None:
                space.solve()
        right[solved] = float((logits.argmax(-1) == y).double().mean())
    assert right[True] > 0.95
    assert right[False] < 0.6


class Recall(nn.Module):
    """A hand-written vanilla network that says the bit of 20 steps ago."""

    def __init__(self, joint):
        super().__init__()
        self.joint, self.readout = joint, nn.Linear(32, 2)
        self.inputs = nn.Linear(33 if joint else 1, 32)
        self.states = nn.Identity() if joint else nn.Linear(32, 32)

    def forward(self, x):
        h, found = x.new_zeros(len(x), 32), []
        for step in x.unbind(1):
            z = self.inputs(torch.cat([step, h], 1)) if self.joint else self.inputs(step) + self.states(h)
            h = torch.tanh(z)
            found.append(h)
        return self.readout(torch.stack(found[20:], 1))


def bits(generator):
    drawn = torch.randint(2, (60, 28), generator=generator)
    return 2.0 * drawn.unsqueeze(-1) - 1, drawn[:, :8]
