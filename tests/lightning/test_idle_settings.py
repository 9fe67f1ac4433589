"""Settings that another one leaves without effect are named once, and defaults are not."""

import warnings

import pytest
import torch
from torch import nn

from tests.support.fits import build, fit
from ts_lightning import TargetAdam, TargetSpace, TargetSpaceConfig

ALONE = "An optimizer has "


def said(act, *words):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        act()
    return [str(one.message) for one in found if any(word in str(one.message) for word in words)]


@pytest.mark.parametrize(("init", "std", "times"), [("weights", 0.3, 1), ("weights", None, 0), ("auto", 0.3, 0)])
def test_a_spread_of_targets_beside_a_start_from_the_weights(init, std, times):
    config = TargetSpaceConfig(init=init, init_std=std)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(20, 3)
    spaces = []
    found = said(lambda: spaces.append(TargetSpace(model, x, config)), "init_std")
    assert [one.startswith("init_std=0.3 is without effect beside init='weights'") for one in found] == [True] * times
    state = spaces[0].state_dict()
    spaces[0].release()
    assert said(lambda: TargetSpace(model, x, config, state=state), "init_std") == []


@pytest.mark.parametrize(("init", "times"), [("weights", 1), ("auto", 0)])
def test_a_fit_names_it_and_what_follows_from_other_weights_does_not(init, times):
    """The second fit starts from weights that were written, whatever ``init`` says."""
    model = build()
    model.target_space = TargetSpaceConfig(init=init, init_std=0.3)
    assert len(said(lambda: fit(model, max_epochs=1), "init_std")) == times
    if not times:
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        assert said(lambda: fit(model, max_epochs=1), "init_std") == []


CASES = {
    "decay": ({"weight_decay": 0.1}, False, "weight_decay=0.1 for solved weights alone"),
    "decay of a norm": ({"weight_decay": 0.1}, True, None),
    "multiple": ({"rest_lr_mult": 10}, False, "rest_lr_mult=10 for solved weights alone"),
    "multiple of a norm": ({"rest_lr_mult": 10}, True, None),
    "growing": ({"adaptive_lr": True}, False, None),
    "momentum": ({"momentum": 0.8}, False, None),
    "defaults": ({}, False, None),
}


@pytest.mark.parametrize(("options", "norm", "expected"), CASES.values(), ids=CASES)
def test_options_of_what_is_not_solved_where_everything_is(options, norm, expected):
    model = build(norm=norm, optimizer=lambda p: TargetAdam(p, **options))
    found = said(lambda: fit(model, max_epochs=1), ALONE)
    assert [one.startswith(f"{ALONE}{expected}") for one in found] == [True] * (expected is not None)


def test_decay_of_a_group_of_solved_weights_beside_one_of_others():
    """As it is usual: none of biases and norms, and some of weights, which are all solved."""

    def optimizer(parameters):
        matrices = [p for p in parameters if p.dim() == 2]
        return TargetAdam([{"params": matrices, "weight_decay": 0.1}])

    found = said(lambda: fit(build(norm=True, optimizer=lambda p: optimizer(list(p))), max_epochs=1), "weight_decay")
    assert len(found) == 1


@pytest.mark.parametrize("name", ["adaptive_lr", "momentum"])
def test_options_of_targets_in_an_optimizer_without_any(name):
    model = build(norm=True)

    def configure_optimizers():
        norm = list(model.net[1].parameters())
        rest = [p for p in model.parameters() if all(p is not other for other in norm)]
        value = {"adaptive_lr": True, "momentum": 0.8}[name]
        return torch.optim.SGD(rest, lr=0.01), TargetAdam(norm, **{name: value})

    def training_step(batch, batch_idx):
        for optimizer in model.optimizers():
            optimizer.zero_grad()
        model.manual_backward(nn.functional.cross_entropy(model.net(batch[0]), batch[1]))
        for optimizer in model.optimizers():
            optimizer.step()

    model.automatic_optimization = False
    model.configure_optimizers, model.training_step = configure_optimizers, training_step
    found = said(lambda: fit(model, max_epochs=1), ALONE)
    assert [f"{name}=" in one and "trains no targets, for which alone it counts" in one for one in found] == [True]
