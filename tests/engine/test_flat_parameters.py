"""Weights and biases that are parts of one parameter: a flat vector of all, or a matrix with a column of biases."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_differences, close, gradients, random_targets
from ts_lightning import TargetSpace, TargetSpaceConfig

D = 4
SIZES = [n for _ in range(2) for n in (D * D, D)]


class Flat(nn.Module):
    """Two layers in one vector."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.randn(sum(SIZES)) / 2)

    def pieces(self):
        w, b, w2, b2 = self.theta.split(SIZES)
        return (w.view(D, D), b), (w2.view(D, D), b2)

    def forward(self, x):
        for weight, bias in self.pieces():
            x = torch.tanh(functional.linear(x, weight, bias))
        return x


class Sliced(Flat):
    """Cut by offsets, and applied by another function."""

    def pieces(self):
        ends = [sum(SIZES[:i]) for i in range(5)]
        w, b, w2, b2 = (self.theta[a:b] for a, b in pairwise(ends))
        return (w.reshape(D, D), b), (w2.reshape(D, D), b2)

    def forward(self, x):
        for weight, bias in self.pieces():
            x = torch.tanh(torch.addmm(bias, x, weight.T))
        return x


class Column(nn.Module):
    """A bias is the last column of its matrix."""

    def __init__(self):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.randn(D, D + 1) / 2) for _ in range(2))

    def pieces(self):
        return [(w[:, :D], w[:, D]) for w in (self.one, self.two)]

    def forward(self, x):
        for weight, bias in self.pieces():
            x = torch.tanh(functional.linear(x, weight, bias))
        return x


KINDS = {"split": Flat, "slices": Sliced, "columns": Column}
SETTINGS = [
    {"init": "normalised"},
    {"init": "weights"},
    {"init": "normalised", "untangle": 3},
    {"init": "normalised", "cascade_gradient": False, "untangle": "auto"},
    {"init": "normalised", "method": "ocu"},
]


def given(samples, seed=1):
    return torch.randn(samples, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pair(kind):
    """A model between two layers, and its twin of modules."""
    torch.manual_seed(0)
    first, middle, last = nn.Linear(D, D), KINDS[kind](), nn.Linear(D, 2)
    modules = []
    for weight, bias in middle.pieces():
        module = nn.Linear(D, D)
        module.weight.data, module.bias.data = weight.detach().clone(), bias.detach().clone()
        modules += [module, nn.Tanh()]
    twin = nn.Sequential(copy.deepcopy(first), nn.Tanh(), *modules, copy.deepcopy(last))
    return nn.Sequential(first, nn.Tanh(), middle, last).double(), twin.double()


def trained(model, config):
    space = TargetSpace(model, given(30), config)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.02)
    for n in range(4):
        optimizer.zero_grad()
        model(given(9, seed=n)).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return space


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_they_train_to_the_weights_of_modules(kind, settings):
    model, twin = pair(kind)
    before = [p.detach().clone() for p in model.parameters()]
    config = TargetSpaceConfig(**settings)
    space, modules = trained(model, config), trained(twin, config)
    names = ["one.0", "two.0"] if kind == "columns" else ["theta.0", "theta.1"]
    assert [*space.targets] == ["0", *(f"2.{name}" for name in names), "3"]
    assert space.left == []
    found = [tensor for pieces in model[2].pieces() for tensor in pieces]
    expected = [tensor for module in (twin[2], twin[4]) for tensor in (module.weight, module.bias)]
    assert all(close(one, other) for one, other in zip(found, expected, strict=True))
    assert all(close(a, b) for a, b in zip(space.targets.values(), modules.targets.values(), strict=True))
    assert not any(close(one, other, 1e-4) for one, other in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_exact(kind):
    model, generator = pair(kind)[0], torch.Generator().manual_seed(0)
    space = TargetSpace(model, given(30), TargetSpaceConfig(init="normalised"))
    random_targets(space, generator)

    def loss(model):
        return model(given(9, seed=2)).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)


class Scaled(Flat):
    def pieces(self):
        return [(weight, 2 * bias) for weight, bias in super().pieces()]


class Shared(Flat):
    def pieces(self):
        (weight, bias), (weight2, _) = super().pieces()
        return [(weight, bias), (weight2, bias)]


class Penalised(Flat):
    def forward(self, x):
        return super().forward(x) + self.theta[D * D : D * D + D].mean()


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        (Scaled, "only a part of it is applied"),
        (Shared, "applied in parts that overlap"),
        (Penalised, "used by mean"),
    ],
)
def test_biases_of_another_use_leave_the_whole_in_weight_space(cls, why):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, D), cls(), nn.Linear(D, 2)).double()
    space = TargetSpace(model, given(30))
    assert [*space.targets] == ["0", "2"]
    assert space.left == [("1", cls.__name__, why)]
