"""Weights that functions apply under no_grad or in a transform, and plainly as well: solved from the plain call."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.engine.test_beside import (
    CONFIG,
    WHERE,
    check_it_goes_on,
    choice,
    in_inference_mode,
    mapped,
    net,
    off,
    perturbed,
    points,
)
from tests.support.exactness import check_differences, gradients, random_targets
from tests.support.fits import assert_equal
from ts_lightning import TargetSpace

OFF = "called where gradients are off"


class Functional(nn.Module):
    """A weight that addmm applies, one of einsum, a scaled one, and one of a module that is not called."""

    def __init__(self):
        super().__init__()
        self.first, self.bias = nn.Parameter(torch.randn(3, 6) / 2), nn.Parameter(torch.randn(6) / 3)
        self.heads, self.scaled = nn.Parameter(torch.randn(2, 3, 4) / 2), nn.Parameter(torch.randn(3, 8))
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        h = torch.tanh(functional.linear(x, self.first.T, self.bias)).unflatten(-1, (2, 3))
        h = torch.tanh(torch.einsum("...hd,hdk->...hk", h, self.heads).flatten(-2))
        h = torch.tanh(h @ (self.scaled / 3).T)
        return functional.linear(h, self.last.weight, self.last.bias)


CASES = [(side, where) for side in (off, in_inference_mode, choice, mapped) for where in WHERE]


@pytest.mark.parametrize(("side", "where"), [*CASES, (perturbed, "behind")], ids=lambda x: getattr(x, "__name__", x))
def test_weights_and_gradients_are_those_of_the_plain_call(side, where):
    models = [net(side=used, net=Functional(), **WHERE[where]) for used in (side, None)]
    models[1].load_state_dict(models[0].state_dict())
    spaces = [TargetSpace(model, points(), CONFIG) for model in models]
    for space in spaces:
        assert space.left == []
        assert list(space.targets) == ["net.first", "net.heads", "net.scaled", "net.last"]
        random_targets(space, torch.Generator().manual_seed(0))
    assert_equal(models[0].state_dict(), models[1].state_dict())

    def loss(m):
        torch.manual_seed(1)
        return m(points(1)).square().sum()

    found, expected = (gradients(space, model, loss) for space, model in zip(spaces, models, strict=True))
    assert_equal(found, expected)
    check_differences(spaces[0], models[0], loss, found, torch.Generator().manual_seed(0))


def test_it_goes_on_bit_for_bit():
    check_it_goes_on(lambda: net(side=off, net=Functional()))


@torch.no_grad()
def turned(m, x):
    return x[:, :2] @ m.net.last.weight


@torch.no_grad()
def without_its_bias(m, x):
    return functional.linear(x, m.net.last.weight)


class Fed(nn.Module):
    """A network that is given its own prediction."""

    def __init__(self):
        super().__init__()
        self.net = Functional()
        self.enter = nn.Linear(5, 3)

    def forward(self, x):
        with torch.no_grad():
            guess = self.net(x)
        return self.net(torch.tanh(self.enter(torch.cat([x, guess], 1))))


@pytest.mark.parametrize("side", [turned, without_its_bias], ids=lambda side: side.__name__)
def test_another_form_or_bias_without_gradients_leaves_it(side):
    model = net(side=side, net=Functional())
    assert TargetSpace(model, points(), CONFIG).left == [("net.last", "nn.Linear", OFF)]


def test_a_call_that_a_solve_depends_on_leaves_the_layers_that_it_uses():
    torch.manual_seed(0)
    space = TargetSpace(Fed().double(), points(), CONFIG)
    assert list(space.targets) == ["enter"]
    assert {reason for _, _, reason in space.left} == {OFF}


class Sides(nn.Module):
    """A module that is called, and whose weight a function applies without gradients beside."""

    def __init__(self, bias):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=bias)

    def forward(self, x):
        with torch.no_grad():
            functional.linear(x + 1, self.layer.weight)
        return self.layer(x)


@pytest.mark.parametrize("bias", [False, True])
def test_a_module_whose_weight_is_applied_so_is_solved_where_that_is_its_own_call(bias):
    torch.manual_seed(0)
    model = nn.Sequential(Sides(bias), nn.Tanh(), nn.Linear(3, 2)).double()
    space = TargetSpace(model, points(), CONFIG)
    assert space.left == ([("0.layer", "nn.Linear", OFF)] if bias else [])
