"""Weights that are read ahead of their solve: of any layer, as factors, in loops, by hooks, by shared memory."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.engine.test_read_ahead import READ, net, solved

KINDS = {
    "convolution": (lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 1, 3, padding=1), nn.Flatten()), "1"),
    "recurrent": (lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), First(nn.GRU(4, 4)), nn.Flatten()), "1.part"),
    "attention": (lambda: Attending(), "part"),
}


class First(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x)[0]


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, h):
        h = h.unsqueeze(1)
        return self.part(h, h, h)[0].squeeze(1)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_any_kind(kind):
    make, name = KINDS[kind]
    torch.manual_seed(0)
    space = solved(net(lambda m, h: h / sum(p.data.norm() for p in m.middle.parameters()), middle=make()))
    assert [(left.name, left.reason) for left in space.left] == [(f"middle.{name}", READ)]


class Scaled(nn.Module):
    """A weight that is divided by a number of another one's, which is solved behind it, and of its own."""

    def __init__(self, number):
        super().__init__()
        self.first, self.weight, self.last = nn.Linear(3, 4), nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 2)
        self.number = number

    def forward(self, x):
        h = functional.linear(torch.tanh(self.first(x)), self.weight / self.number(self))
        return self.last(torch.tanh(h))


NUMBERS = {
    "first": (lambda m: m.first.weight.detach().norm(), None),
    "last": (lambda m: m.last.weight.detach().norm(), ("last", READ)),
    "last, as a number": (lambda m: float(m.last.weight.detach().norm()), ("last", READ)),
    "own": (lambda m: np.linalg.norm(m.weight.tolist()), ("", "used by tolist")),
    "own, by detach": (lambda m: m.weight.detach().norm(), ("", "used by detach")),
}


@pytest.mark.parametrize("number", NUMBERS)
def test_factors_that_are_read_from_weights(number):
    """Spectral norm by hand: the factor was that of the last solve's weight."""
    make, left = NUMBERS[number]
    torch.manual_seed(0)
    found = [(name, reason) for name, _, reason in solved(Scaled(make).double()).left]
    assert found == ([] if left is None else [left])


class Cell(nn.Module):
    """A cell of one's own, whose state is divided by its weight's norm, within the loop or behind it."""

    def __init__(self, within):
        super().__init__()
        self.cell, self.readout, self.within = nn.Linear(3 + 4, 4), nn.Linear(4, 2), within

    def forward(self, x):
        h = x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            h = torch.tanh(self.cell(torch.cat([step, h], 1)))
            h = h / self.cell.weight.detach().norm() if self.within else h
        return self.readout(h / self.cell.weight.detach().norm())


@pytest.mark.parametrize("within", [True, False])
def test_loops(within):
    torch.manual_seed(0)
    space = solved(Cell(within).double(), x=torch.randn(20, 4, 3, dtype=torch.float64))
    assert space.left == ([("cell", "nn.Linear", READ)] if within else [])


def test_tensors_that_share_memory_with_a_weight():
    model = net(lambda m, h: h / m.turned.norm())
    model.register_buffer("turned", model.middle.weight.data.t())
    assert solved(model).left == [("middle", "nn.Linear", READ)]
    model = net(lambda m, h: h / m.turned.norm())
    model.turned = model.middle.weight.detach().t()
    assert solved(model).left == [("middle", "nn.Linear", READ)]


def test_hooks_that_read():
    model = net()
    model.middle.register_forward_pre_hook(lambda m, args: (args[0] / m.weight.detach().norm(),))
    assert solved(model).left == [("middle", "nn.Linear", READ)]
