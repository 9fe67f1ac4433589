"""nn.MultiheadAttention with keys and values of widths of their own: a weight and a system for each of the three."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_differences, close, gradients, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig
from ts_lightning.layers.attention.projections import InProjection

SIZES = {"both": {"kdim": 5, "vdim": 3}, "keys": {"kdim": 5}, "values": {"vdim": 3}}


class Net(nn.Module):
    def __init__(self, bias=True, kdim=8, vdim=8):
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(4, size) for size in (8, kdim, vdim))
        self.attention = nn.MultiheadAttention(8, 2, bias=bias, kdim=kdim, vdim=vdim, batch_first=True)
        self.readout = nn.Linear(8, 2)

    def forward(self, x):
        q, k, v = (layer(x).tanh() for layer in self.embed)
        return self.readout(self.attention(q[:, :2], k, v, need_weights=False)[0]).mean(1)


def network(sizes, bias=True):
    torch.manual_seed(0)
    return Net(bias, **SIZES[sizes]).double(), torch.randn(9, 4, 4, dtype=torch.float64)


def loss(model):
    return (model(torch.linspace(-1, 1, 48, dtype=torch.float64).view(3, 4, 4)) - 1).square().sum()


@pytest.mark.parametrize("rows", ["auto", 12])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("method", ["scu", "ocu"])
def test_gradients_predict_finite_differences(method, sizes, bias, rows):
    if method == "ocu" and rows != "auto":
        pytest.skip("targets are passed on from all rows")
    model, x = network(sizes, bias)
    config = TargetSpaceConfig(ridge=0.3, step_scale=1.0, method=method, reference=ReferenceConfig(rows=rows))
    space = TargetSpace(model, x, config)
    assert space.left == []
    generator = torch.Generator().manual_seed(1)
    random_targets(space, generator)
    check_differences(space, model, loss, gradients(space, model, loss), generator)


@pytest.mark.parametrize("sizes", SIZES)
def test_every_projection_is_a_dense_solve_of_its_own(sizes):
    model, x = network(sizes)
    config = TargetSpaceConfig(ridge=0.3, ridge_scale="absolute", step_scale=1.0, init="projected")
    space = TargetSpace(model, x, config)
    random_targets(space, torch.Generator().manual_seed(1))
    targets = space.targets["attention.in_proj"].detach().split([18, 36, 36])
    with torch.no_grad():
        tensors = [layer(x).tanh() for layer in model.embed]
    tensors[0] = tensors[0][:, :2]
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    biases = model.attention.in_proj_bias.chunk(3)
    for name, tensor, t, bias in zip(names, tensors, targets, biases, strict=True):
        a = torch.cat([tensor.flatten(0, 1), torch.ones(len(t), 1).double()], 1)
        w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(a.shape[1]).double(), a.T @ t)
        assert close(getattr(model.attention, name), w[:-1].T)
        assert close(bias, w[-1])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_forward_is_the_modules(sizes, bias, masked):
    module = network(sizes, bias)[0].attention
    widths = (8, module.kdim, module.vdim)
    q, k, v = (torch.randn(6, n, size, dtype=torch.float64) for n, size in zip((2, 4, 4), widths, strict=True))
    padding = torch.arange(4) >= torch.tensor([[4], [3], [2], [4], [1], [2]]) if masked else None
    layers = InProjection.of("attention", module, TargetSpaceConfig())

    def visit(layer, x):
        if not isinstance(layer, InProjection):
            return functional.linear(x, *layer.parameters)
        return layer.produce(x, layer.parameters)

    found = InProjection.forward(layers, visit, q, k, v, padding)
    expected = module(q, k, v, padding)
    assert all(close(mine, theirs, 1e-12) for mine, theirs in zip(found, expected, strict=True))


def test_weights_between_two_untanglings_and_a_resumed_state():
    model, x = network("both")
    space = TargetSpace(model, x, TargetSpaceConfig(untangle=3))
    optimizer = torch.optim.Adam(space.parameters(), 0.01)
    before = float(loss(model).detach())
    for _ in range(6):
        optimizer.zero_grad()
        loss(model).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert float(loss(model).detach()) < before
    again, _ = network("both")
    other = TargetSpace(again, x, TargetSpaceConfig(untangle=3), state=space.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True) if p.dim() > 1)
    assert other.units == space.units


def test_dropout_ahead_of_keys_of_another_width():
    torch.manual_seed(0)

    class Noisy(Net):
        def __init__(self):
            super().__init__(kdim=5)
            self.drop = nn.Dropout(0.2)

        def forward(self, x):
            q, k, v = (layer(x).tanh() for layer in self.embed)
            return self.readout(self.attention(q, self.drop(k), v)[0]).mean(1)

    space = TargetSpace(Noisy(), torch.randn(9, 4, 4))
    layer = next(layer for layer in space.layers if layer.name == "attention.in_proj")
    noise = [solver.noise for solver in layer.solvers]
    assert noise[0] is None
    assert noise[2] is None
    assert noise[1].tolist() == pytest.approx([0.25] * 5 + [0.0])
