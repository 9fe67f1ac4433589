"""A layer type that the package does not know, added as docs/extending.md says: its code is what is run."""

import copy

import pytest
import torch
from torch import nn

from tests.support.exactness import check_differences, close, gradients, random_targets
from tests.support.pages import blocks, run
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError, register_layer
from ts_lightning.layers.linear import LinearTargets

PAGE = "extending.md"


@pytest.fixture
def page():
    """The classes of the page, registered."""
    return run(*blocks(PAGE, "A layer type that is linear in its input"), *blocks(PAGE, "A family of your own"))


def features(module, x):
    """A of a layer of the page: what its weight multiplies, and a column of ones."""
    x = torch.cat([x, x.square()], -1) if type(module).__name__ == "Quadratic" else x
    return torch.cat([x, torch.ones_like(x[..., :1])], -1).flatten(0, -2)


def test_the_page_runs_from_top_to_bottom():
    run(*blocks(PAGE))


@pytest.mark.parametrize(
    ("shape", "rows", "method"),
    [((30, 3), "auto", "scu"), ((30, 3), "auto", "ocu"), ((8, 5, 3), "auto", "scu"), ((8, 5, 3), 20, "scu")],
)
def test_its_weights_are_those_of_a_dense_solve(page, shape, rows, method):
    torch.manual_seed(0)
    model = nn.Sequential(page["Quadratic"](3, 6), nn.Tanh(), page["Dense"](6, 2))
    x = torch.randn(shape, dtype=torch.float64)
    settings = {"ridge": 0.3, "ridge_scale": "absolute", "step_scale": 1.0, "method": method}
    space = TargetSpace(model, x, TargetSpaceConfig(**settings, reference=ReferenceConfig(rows=rows)))
    assert list(space.targets) == ["0", "2"]
    random_targets(space, torch.Generator().manual_seed(1))
    passed = x
    for layer, module in zip(space.layers, (model[0], model[2]), strict=True):
        a, t = features(module, passed), space.targets[layer.name].detach().flatten(0, -2)
        chosen = slice(None) if layer.rows is None else layer.rows
        assert (layer.rows is None) == (rows == "auto")
        gram = a[chosen].T @ a[chosen] + 0.3 * torch.eye(a.shape[1], dtype=a.dtype)
        w = torch.linalg.solve(gram, a[chosen].T @ t)
        assert close(module.weight, w[:-1].T, 1e-10)
        assert close(module.bias, w[-1], 1e-10)
        z = (a @ w if method == "scu" else t).view(*passed.shape[:-1], -1)
        passed = torch.tanh(z)


@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("scale", ["variance", "feature"])
def test_its_gradients_predict_finite_differences(page, scale, method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3).double(), nn.Tanh(), page["Quadratic"](3, 6), nn.Tanh(), page["Dense"](6, 2))
    space = TargetSpace(model, torch.randn(20, 4).double(), TargetSpaceConfig(ridge_scale=scale, method=method))
    generator = torch.Generator().manual_seed(0)
    random_targets(space, generator)
    x = torch.randn(7, 4).double()

    def loss(model):
        return model(x).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)


def test_given_weights_are_kept_and_training_goes_on(page):
    torch.manual_seed(0)
    model = nn.Sequential(page["Quadratic"](3, 6), nn.Tanh(), page["Dense"](6, 2))
    before, x = copy.deepcopy(model), torch.randn(30, 3, dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert close(model(x), before(x), 1e-10)
    optimizer = torch.optim.Adam(space.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        space.pullback()
        optimizer.step()
        space.solve()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_a_subclass_counts_where_it_keeps_the_forward(page):
    class Same(page["Dense"]):
        pass

    class Other(page["Dense"]):
        def forward(self, x):
            return x @ self.weight.abs().T + self.bias

    x = torch.randn(9, 3, dtype=torch.float64)
    assert list(TargetSpace(nn.Sequential(Same(3, 3), Other(3, 3)), x).targets) == ["0"]
    register_layer(Other, LinearTargets)
    assert list(TargetSpace(nn.Sequential(Same(3, 3), Other(3, 3)), x).targets) == ["0", "1"]


def test_it_is_named_among_what_is_supported(page):
    with pytest.raises(TargetSpaceError, match=r"expected at least one trainable .*nn\.Linear.*Dense, Quadratic"):
        TargetSpace(nn.Sequential(nn.Embedding(3, 2)), torch.arange(3))


@pytest.mark.parametrize("arguments", [(nn.Linear(1, 1), LinearTargets), (nn.Linear, nn.Linear), (3, LinearTargets)])
def test_what_cannot_be_registered(arguments):
    with pytest.raises(TypeError, match=r"register_layer: found .*; expected"):
        register_layer(*arguments)
