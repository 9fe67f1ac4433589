"""Layers are solved by one target space at a time: a second one is refused by name, until the first lets go."""

import pytest
import torch
from torch import nn

from tests.support.fits import Lit, build, fit, loader
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError

X = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def shared(other):
    """Another model with the first layer of ``other``."""
    return nn.Sequential(other[0], nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("second", "names"),
    [
        (lambda model: model, "0, 2 of Sequential"),
        (lambda model: model[0], "of Linear"),
        (lambda model: nn.Sequential(model, nn.Linear(2, 1)), r"0\.0, 0\.2 of Sequential"),
        (shared, "0 of Sequential"),
    ],
    ids=["the same model", "a part", "a whole", "a shared layer"],
)
def test_a_second_space_is_refused_by_the_names_of_its_layers(second, names):
    model = net()
    first = TargetSpace(model, X)
    weights = [p.clone() for p in model.parameters()]
    with pytest.raises(TargetSpaceError, match=rf"{names}: found in another TargetSpace, of Sequential; .*release\(\)"):
        TargetSpace(second(model), X)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    first.release()
    TargetSpace(second(model), X)


def test_a_space_that_nobody_holds_is_none():
    model = net()
    for _ in range(3):
        TargetSpace(model, X)


def test_spaces_of_other_layers_may_stand_beside_each_other():
    model = net()
    spaces = [TargetSpace(model, X, TargetSpaceConfig(layers=[name])) for name in "02"]
    assert [list(space.targets) for space in spaces] == [["0"], ["2"]]


def test_a_released_space_does_not_solve_beside_another():
    model = net()
    first = TargetSpace(model, X)
    first.release()
    second = TargetSpace(model, X)
    with pytest.raises(TargetSpaceError, match="0, 2 of Sequential: found in another"):
        first.solve()
    second.release()
    first.solve()


def test_a_changed_model_is_let_go_with_the_error_that_asks_for_another_space():
    model = net()
    space = TargetSpace(model, X)
    model[2] = nn.Linear(4, 5)
    with pytest.raises(TargetSpaceError, match="Make another TargetSpace"):
        space.solve()
    assert set(TargetSpace(model, X).targets) == {"0", "2"}


class Beside(Lit):
    """Makes a space of its own in a fit."""

    def on_train_batch_end(self, *args):
        TargetSpace(self.net, torch.zeros(4, 3))


def test_none_beside_a_fit_and_one_behind_it():
    with pytest.raises(TargetSpaceError, match=r"found in another TargetSpace, of Beside; .*the end of a fit does"):
        fit(build(Beside), loader())
    model = build(Lit)
    fit(model, loader())
    model.target_space_engine.solve()
    fit(model, loader())  # goes on from the space of the last fit, and lets that go
    space = TargetSpace(model.net, next(iter(loader()))[0])
    with pytest.raises(TargetSpaceError, match="found in another TargetSpace"):
        fit(model, loader())
    space.release()
    fit(model, loader())
