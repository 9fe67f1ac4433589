"""Weights that a forward takes by themselves: as the input of a layer, and as views that modules keep."""

import pytest
import torch
from torch import nn

from tests.support.exactness import check_differences, gradients, random_targets
from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.errors import TargetSpaceError

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Model(nn.Module):
    def __init__(self, run, keep=None):
        super().__init__()
        torch.manual_seed(0)
        self.run = run
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.w = nn.Parameter(torch.randn(2, 4, 4) / 2)
        self.double()
        if keep is not None:
            self.kept = keep(self)

    def forward(self, x):
        return self.run(self, x)


def check(run, keep=None):
    """Gradients are those of differences; returns the space."""
    model = Model(run, keep)
    space = TargetSpace(model, X, TargetSpaceConfig(ridge=0.3, step_scale=1.0, init="normalised"))
    generator = torch.Generator().manual_seed(0)
    random_targets(space, generator)

    def loss(model):
        return model(X[:7]).square().mean()

    check_differences(space, model, loss, gradients(space, model, loss), generator)
    return space


#: a forward that gives a weight to a module, and what is solved
INPUTS = {
    "of a function": (lambda m, x: m.last(torch.tanh(x @ m.w.sum(0))) + m.last(m.w.sum(0)).mean(), ["last"]),
    "a weight": (lambda m, x: m.last(torch.tanh(x @ m.w[0]) @ m.w[1] + m.first(m.w.view(8, 4)).mean(0)), None),
    "a part": (lambda m, x: m.last(torch.tanh(x @ m.w[0]) @ m.w[1] + m.first(m.w[1]).mean(0)), None),
    "of a module, behind its call": (
        lambda m, x: m.last(torch.tanh(m.first(x))) + m.last(m.first.weight).mean(),
        ["first", "last"],
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_a_weight_that_is_the_input_of_a_module(name):
    run, solved = INPUTS[name]
    assert [*check(run).targets] == (solved or ["first", "last"])


def test_the_weight_of_a_module_that_is_the_input_of_another_one_ahead_of_its_call_is_refused():
    """Gradients were wrong."""
    with pytest.raises(TargetSpaceError, match="'last' depends on the weight of layer 'first'"):
        TargetSpace(Model(lambda m, x: m.last(m.first.weight).mean() + m.last(m.first(x))), X)


#: views of a weight, made once
KEPT = {
    "a part": (lambda m: m.w[0], lambda m: m.kept),
    "parts in a list": (lambda m: [m.w[0]], lambda m: m.kept[0]),
    "in a tuple": (lambda m: (m.w[0].T,), lambda m: m.kept[0]),
    "in a dictionary": (lambda m: {"w": m.w.view(8, 4)[:4]}, lambda m: m.kept["w"]),
}


@pytest.mark.parametrize("name", KEPT)
def test_the_reference_pass_goes_through_views_that_modules_keep(name):
    """They were copies there, through which no gradient went."""
    keep, taken = KEPT[name]
    assert [*check(lambda m, x: m.last(torch.tanh(x @ taken(m))), keep).targets] == ["last"]


@pytest.mark.parametrize("name", KEPT)
def test_beside_the_weights_own_call_they_are_refused(name):
    keep, taken = KEPT[name]
    with pytest.raises(TargetSpaceError, match="'last' depends on the weight of layer 'w"):
        TargetSpace(Model(lambda m, x: m.last(torch.tanh(x @ m.w[0]) @ m.w[1] + x @ taken(m)), keep), X)


def test_a_kept_view_of_a_modules_weight_is_refused():
    with pytest.raises(TargetSpaceError, match="'last' depends on the weight of layer 'first'"):
        TargetSpace(Model(lambda m, x: m.last(m.first(x) + x @ m.kept[0]), lambda m: [m.first.weight.t()]), X)
