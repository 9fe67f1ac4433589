"""A ridge scale that the package does not know, added as docs/extending.md says: its code is what is run."""

from typing import get_args

import pytest
import torch
from torch import nn

from tests.support.exactness import check_differences, close, gradients, random_targets
from tests.support.pages import blocks, run
from ts_lightning import RidgeScale, TargetSpace, TargetSpaceConfig, register_ridge_scale, ridge_solve
from ts_lightning.config import RidgeScaleName, ridge_scales
from ts_lightning.ridge.scales import ridge_scale

PAGE = "extending.md"


@pytest.fixture
def page():
    """The scale of the page, registered as "rms"."""
    return run(*blocks(PAGE, "A ridge scale of your own"))


class Spread(RidgeScale):
    """A ridge for all inputs of a function of both the squares and the means, so that both gradients are seen."""

    def measure(self, squares, means, rows):
        return (1 + (squares / rows - means.square()).square().sum(-1, keepdim=True)).log() + 0.1

    def gradient(self, du, u, squares, means, rows):
        spread = squares / rows - means.square()
        inner = 2 * du * spread / (1 + spread.square().sum(-1, keepdim=True))
        return inner / rows, -2 * inner * means


SHAPES = {"primal": (12, 4), "dual": (4, 9), "groups": (3, 12, 4), "dual groups": (2, 4, 9), "one input": (5, 1)}


def diagonal(name, a):
    """u by the scale's definition, from A itself."""
    if name == "rms":
        return (a.square().mean(-2) + 1e-12).sqrt()
    return ((1 + a.var(-2, correction=0).square().sum(-1, keepdim=True)).log() + 0.1).expand_as(a[..., 0, :])


@pytest.mark.parametrize("outputs", [2, 6])  # a form with a residual, and one without
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["rms", "spread"])
def test_weights_and_gradients_are_those_of_a_dense_solve(page, name, shape, outputs):
    register_ridge_scale("spread", Spread())
    torch.manual_seed(0)
    a = (torch.randn(SHAPES[shape], dtype=torch.float64) + 1).requires_grad_()
    t = torch.randn(*SHAPES[shape][:-1], outputs, dtype=torch.float64, requires_grad=True)
    w = ridge_solve(a, t, 0.3, scale=name)
    expected = torch.linalg.solve(a.mT @ a + 0.3 * torch.diag_embed(diagonal(name, a)), a.mT @ t)
    assert close(w, expected, 1e-11)
    arriving = torch.randn_like(w)
    found = torch.autograd.grad(w, [a, t], arriving)
    for one, other in zip(found, torch.autograd.grad(expected, [a, t], arriving), strict=True):
        assert close(one, other, 1e-10)
    assert torch.autograd.gradcheck(lambda a, t: ridge_solve(a, t, 0.3, scale=name), (a, t))


MODELS = {
    "dense": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), (9, 4)),
    "conv": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.Tanh(), nn.Conv1d(4, 3, 2)), (6, 2, 7)),
    "attention": (lambda: nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True), (5, 4, 4)),
}


@pytest.mark.parametrize("name", ["rms", "spread"])
@pytest.mark.parametrize("model", MODELS)
def test_in_every_family_gradients_predict_finite_differences(page, model, name):
    register_ridge_scale("spread", Spread())
    torch.manual_seed(0)
    build, shape = MODELS[model]
    model = build().double()
    space = TargetSpace(model, torch.randn(shape).double(), TargetSpaceConfig(ridge_scale=name, step_scale=1.0))
    generator = torch.Generator().manual_seed(0)
    random_targets(space, generator)
    x = torch.randn(shape).double()

    def loss(model):
        return model(x).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)


def test_given_weights_are_kept_under_it(page):
    torch.manual_seed(0)
    model, x = nn.GRU(3, 4).double(), torch.randn(6, 30, 3, dtype=torch.float64)
    before = model(x)[0].detach()
    TargetSpace(model, x, TargetSpaceConfig(init="weights", ridge=0.01, ridge_scale="rms"))
    assert close(model(x)[0], before, 1e-8)


def test_a_name_that_is_not_registered_is_refused_with_what_to_do():
    for refused in (
        lambda: TargetSpaceConfig(ridge_scale="rms"),
        lambda: ridge_solve(torch.ones(2, 1), torch.ones(2, 1), 1.0, scale="rms"),
    ):
        with pytest.raises(ValueError, match=r"scale='rms': expected one of 'absolute'.*register_ridge_scale"):
            refused()


def test_its_settings_survive_a_checkpoint(page):
    config = TargetSpaceConfig(ridge_scale="rms")
    assert TargetSpaceConfig.from_dict(config.to_dict()) == config


def test_what_cannot_be_registered(page):
    with pytest.raises(TypeError, match=r"found <class.*; expected an instance"):
        register_ridge_scale("other", page["RootMeanSquare"])
    with pytest.raises(ValueError, match="'variance' is one of the package's own"):
        register_ridge_scale("variance", page["RootMeanSquare"]())


def test_the_packages_own_names_are_those_of_the_settings():
    own = list(get_args(RidgeScaleName))
    assert ridge_scales[: len(own)] == own  # behind them what doctests have registered
    assert all(isinstance(ridge_scale(name), RidgeScale) for name in own)
