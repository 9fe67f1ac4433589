"""nn.ConvTranspose*: weights against a dense solve, and gradients of whole networks against finite differences."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_differences, close, gradients, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig

KINDS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FUNCTIONS = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
OPTIONS = {
    "plain": {"kernel_size": 3},
    "as in DCGAN": {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False},
    "as in U-Net": {"kernel_size": 2, "stride": 2},
    "output padding": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "more padding than reach": {"kernel_size": 2, "padding": 2, "stride": 3},
    "dilation": {"kernel_size": 2, "stride": 2, "dilation": 3, "padding": 1},
    "groups": {"kernel_size": 3, "stride": 2, "groups": 2},
}


class Up(nn.Module):
    """Dense, transposed convolution, and a readout of the means."""

    def __init__(self, axes, options):
        super().__init__()
        self.axes = axes
        self.first = nn.Linear(3, 2 * 3**axes)
        self.up = KINDS[axes - 1](2, 4, **options)
        self.readout = nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x)).unflatten(1, (2, *(3,) * self.axes))
        return self.readout(torch.tanh(self.up(h)).flatten(2).square().mean(-1))


def settings(**options):
    rows = options.pop("rows", "auto")
    return TargetSpaceConfig(ridge=0.3, step_scale=1.0, reference=ReferenceConfig(rows=rows), **options)


@pytest.mark.parametrize(("method", "rows"), [("scu", "all"), ("scu", 20), ("ocu", "all")])
@pytest.mark.parametrize("case", OPTIONS)
def test_gradients_predict_finite_differences(case, method, rows):
    torch.manual_seed(0)
    model, generator = Up(2, OPTIONS[case]).double(), torch.Generator().manual_seed(0)
    space = TargetSpace(model, torch.randn(6, 3).double(), settings(method=method, rows=rows))
    assert list(space.targets) == ["first", "up", "readout"]
    random_targets(space, generator)
    x = torch.randn(5, 3).double()

    def loss(model):
        return model(x).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)


@pytest.mark.parametrize("rows", ["all", 20])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("case", OPTIONS)
def test_weights_are_those_of_a_dense_solve(case, axes, rows):
    torch.manual_seed(0)
    options = OPTIONS[case]
    model = KINDS[axes - 1](2, 4, **options).double()
    x = torch.randn(3, 2, *(3,) * axes).double()
    space = TargetSpace(model, x, settings(ridge_scale="absolute", rows=rows))
    random_targets(space, torch.Generator().manual_seed(0))
    (layer,), (target,) = space.layers, space.targets.values()
    shape = model.weight.shape
    basis = torch.eye(shape.numel()).double().view(-1, *shape)
    given = {n: options[n] for n in ("stride", "padding", "output_padding", "groups", "dilation") if n in options}
    columns = [FUNCTIONS[axes - 1](x, w, **given).movedim(1, -1).flatten(0, -2) for w in basis]
    a = torch.stack(columns, -1)  # (rows, out, weights)
    t = target.detach() if layer.rows is not None else target.detach().movedim(1, -1).flatten(0, -2)
    a = a if layer.rows is None else a[layer.rows]
    if model.bias is not None:
        ones = torch.eye(4).double().expand(len(a), 4, 4)
        a = torch.cat([a, ones], -1)
    a, t = a.flatten(0, 1), t.flatten()
    w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(a.shape[1]).double(), a.T @ t)
    assert close(model.weight.flatten(), w[: shape.numel()])
    if model.bias is not None:
        assert close(model.bias, w[shape.numel() :])


@pytest.mark.parametrize("case", OPTIONS)
def test_a_start_from_the_weights_keeps_the_function(case):
    torch.manual_seed(0)
    model, x = Up(2, OPTIONS[case]).double(), torch.randn(5, 3).double()
    before = model(x).detach()
    TargetSpace(model, torch.randn(6, 3).double(), TargetSpaceConfig(init="weights"))
    assert close(model(x), before)


def test_an_output_size_is_kept():
    class Sized(Up):
        def forward(self, x):
            h = torch.tanh(self.first(x)).unflatten(1, (2, 3, 3))
            return self.readout(self.up(h, output_size=[8, 7]).flatten(2).mean(-1))

    torch.manual_seed(0)
    space = TargetSpace(
        Sized(2, {"kernel_size": 3, "stride": 2}).double(), torch.randn(6, 3).double(), settings(rows="all")
    )
    assert space.targets["up"].shape == (6, 4, 8, 7)
