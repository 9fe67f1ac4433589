"""Weights that a forward takes as parts of one parameter: slices of a fused projection, entries of a stack."""

import pytest
import torch

from tests.support.exactness import check_differences, close, gradients, random_targets
from tests.support.parts import CUTS, FORWARDS, PARTS, given, pair
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig

NAMES = [f"w.{k}" for k in range(PARTS)]
#: every way to cut in one pass and in a loop, which cuts anew at each of its steps; the other forwards with each kind
CUT = [(forward, cut) for forward in ("in_a_row", "recurrent") for cut in CUTS]
CUT += [
    (f, cut) for f in ("attention", "gated", "experts") for cut in ("chunk", "slices of columns", "entries", "scaled")
]


def trained(model, config):
    """The weights behind a few steps, with the space."""
    space = TargetSpace(model, given(30), config)
    optimizer, x = torch.optim.Adam(model.parameters(), lr=0.05), given(9, seed=2)
    space.substitute(optimizer)
    for _ in range(2 if config.untangle == 1 else 4):  # over a whole period
        optimizer.zero_grad()
        model(x).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return model.weights(), space


def check_like_modules(forward, cut, biases, config):
    model, twin = pair(forward, cut, biases)
    before = model.weights()
    found, space = trained(model, config)
    expected, modules = trained(twin, config)
    assert [*space.targets] == [*NAMES, "readout"] == [*modules.targets]
    assert sum(p.numel() for p in space.parameters()) == sum(p.numel() for p in modules.parameters())
    assert all(close(one, other, 1e-10) for one, other in zip(found, expected, strict=True))
    assert all(close(space.targets[name], modules.targets[name], 1e-10) for name in space.targets)
    assert not any(close(one, other, 1e-3) for one, other in zip(found[:PARTS], before[:PARTS], strict=True))


@pytest.mark.parametrize("biases", ["own", "added", "none"])
@pytest.mark.parametrize("forward", FORWARDS)
def test_parts_train_to_the_weights_of_modules(forward, biases):
    check_like_modules(forward, "chunk", biases, TargetSpaceConfig(init="normalised"))


@pytest.mark.parametrize("cut", [cut for cut in CUTS if cut != "scaled"])
def test_however_they_are_cut(cut):
    check_like_modules("in_a_row", cut, "own", TargetSpaceConfig(init="normalised"))


@pytest.mark.parametrize(
    "settings",
    [
        {"init": "weights"},
        {"init": "projected"},
        {"untangle": 3},
        {"untangle": "auto"},
        {"untangle": "auto", "init": "weights"},
        {"cascade_gradient": False},
        {"cascade_gradient": False, "untangle": 3},
        {"method": "ocu"},
        {"reference": ReferenceConfig(rows=20)},
        {"ridge_scale": "absolute", "ridge": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("forward", ["in_a_row", "attention", "recurrent"])
def test_with_all_settings(forward, settings):
    if settings.get("method") == "ocu" and forward == "recurrent":
        pytest.skip("loops are solved in SCU")
    check_like_modules(forward, "entries", "own", TargetSpaceConfig(**{"init": "normalised"} | settings))


@pytest.mark.parametrize(("forward", "cut"), CUT)
def test_gradients_predict_finite_differences(forward, cut):
    model, _ = pair(forward, cut)
    space = TargetSpace(model, given(20), TargetSpaceConfig(ridge=0.3, step_scale=1.0))
    assert space.left == []
    generator, x = torch.Generator().manual_seed(0), given(6, seed=2)
    random_targets(space, generator)

    def loss(model):
        return model(x).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)


@pytest.mark.parametrize("cut", CUTS)
def test_a_start_from_the_weights_keeps_the_function(cut):
    model, _ = pair("gated", cut)
    x = given(7, seed=2)
    before = model(x).detach()
    TargetSpace(model, given(40), TargetSpaceConfig(init="weights"))
    assert close(model(x), before, 1e-10)
