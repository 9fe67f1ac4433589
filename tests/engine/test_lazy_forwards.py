"""Forwards that run when their result is asked for, as generators do. They train as those that run at once."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from tests.support.middles import EXACT, batch
from ts_lightning import TargetSpace


class AtOnce(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.readout = nn.Linear(3, 6), nn.Linear(6, 2)
        self.w = nn.Parameter(torch.randn(6, 6) / 6**0.5)
        self.double()

    def forward(self, x):
        return self.behind(torch.tanh(self.first(x)))

    def behind(self, h):
        return self.readout(torch.tanh(linear(h, self.w)))

    def result(self, x):
        return self(x)


class Generated(AtOnce):
    def forward(self, x):
        h = torch.tanh(self.first(x))
        yield h
        yield self.behind(h)

    def result(self, x):
        *_, last = self(x)
        return last


class Later(AtOnce):
    def forward(self, x):
        h = torch.tanh(self.first(x))
        return lambda: self.behind(h)

    def result(self, x):
        return self(x)()


class Forked(AtOnce):
    def behind(self, h):
        return self.readout(torch.tanh(torch.jit.wait(torch.jit.fork(linear, h, self.w))))


def trained(cls):
    model = cls()
    x = batch()
    space = TargetSpace(model, lambda: model.result(x), EXACT)
    assert space.left == []
    optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
    for n in range(3):
        optimizer.zero_grad()
        model.result(batch(8, seed=n + 2)).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return list(model.parameters())


@pytest.mark.filterwarnings("ignore:.torch.jit.*:FutureWarning", "ignore:.torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("cls", [Generated, Later, Forked])
def test_it_trains_as_one_that_runs_at_once(cls):
    torch.testing.assert_close(trained(cls), trained(AtOnce), rtol=0, atol=0)
