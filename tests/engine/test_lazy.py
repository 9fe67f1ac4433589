"""Lazy modules get their weights from the reference forward, as from a first step; nothing else of it stays."""

import pytest
import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from tests.support.fits import Lit, assert_equal, build, fit, loader
from ts_lightning import TargetSpace, TargetSpaceConfig, inspect

LAYERS = {
    "linear": (lambda: nn.LazyLinear(4), nn.Linear, (5,)),
    "conv1d": (lambda: nn.LazyConv1d(4, 3), nn.Conv1d, (2, 7)),
    "conv2d": (lambda: nn.LazyConv2d(4, 3), nn.Conv2d, (2, 5, 5)),
    "conv3d": (lambda: nn.LazyConv3d(4, 2), nn.Conv3d, (2, 3, 3, 3)),
    "transposed": (lambda: nn.LazyConvTranspose2d(4, 2), nn.ConvTranspose2d, (2, 4, 4)),
    "batch norm": (lambda: nn.LazyBatchNorm2d(), nn.BatchNorm2d, (2, 4, 4)),
    "instance norm": (lambda: nn.LazyInstanceNorm2d(affine=True), nn.InstanceNorm2d, (2, 4, 4)),
}


class Net(nn.Module):
    """A lazy layer, a solved one behind it, and traces of every forward."""

    def __init__(self, layer, size=3):
        super().__init__()
        self.layer, self.flat, self.head = layer, nn.Flatten(), nn.LazyLinear(size)
        self.last = None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.last = x
        self.calls += 1
        return self.head(input=self.flat(self.layer(x)).tanh())


@pytest.mark.parametrize("case", LAYERS)
def test_they_are_as_behind_a_first_forward(case):
    layer, kind, shape = LAYERS[case]
    torch.manual_seed(0)
    model, x = Net(layer()), torch.randn(16, *shape)
    space = TargetSpace(model, x)
    assert type(model.layer) is kind
    assert type(model.head) is nn.Linear
    assert "head" in space.targets
    assert model.last is None
    assert model.calls == 0
    assert all(module.training for module in model.modules())
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in model.modules())
    other = Net(layer())
    other(x)
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in other.named_parameters()
    }
    assert repr(model) == repr(other)
    for name, buffer in other.state_dict().items():
        if "running" in name:
            assert model.state_dict()[name].shape == buffer.shape
            assert model.state_dict()[name].unique() in (torch.zeros(1), torch.ones(1))
    model.load_state_dict(other.state_dict())


def test_their_start_follows_the_users_seed():
    def start(seed):
        torch.manual_seed(seed)
        model = Net(nn.LazyLinear(4))
        TargetSpace(model, torch.ones(9, 5) * torch.arange(9.0).unsqueeze(1), TargetSpaceConfig(exclude=["layer"]))
        return model.layer.weight

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_given_weights_stay():
    torch.manual_seed(0)
    x = torch.randn(12, 5)
    model, given = Net(nn.LazyLinear(4)), Net(nn.LazyLinear(4))
    given(x)
    model.load_state_dict(given.state_dict())  # which gives them sizes, and not yet their class
    assert type(model.head) is nn.LazyLinear
    TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert type(model.head) is nn.Linear
    torch.testing.assert_close(model(x), given(x), rtol=1e-4, atol=1e-5)


class Scale(LazyModuleMixin, nn.Module):
    """A lazy module of a user's own, which becomes no other class."""

    def __init__(self):
        super().__init__()
        self.scale = UninitializedParameter()

    def initialize_parameters(self, x):
        if self.has_uninitialized_params():
            self.scale.materialize(x.shape[1:])
            with torch.no_grad():
                self.scale.fill_(0.5)

    def forward(self, x):
        return self.scale * x


def test_a_lazy_module_of_a_users_own():
    torch.manual_seed(0)
    model = Net(Scale())
    space = TargetSpace(model, torch.randn(12, 5))
    assert torch.equal(model.layer.scale, torch.full((5,), 0.5))
    model(torch.randn(3, 5)).sum().backward()
    space.pullback()
    assert model.layer.scale.grad.norm() > 0


def test_an_inspection_reads_sizes():
    assert "head" in str(inspect(Net(nn.LazyConv2d(4, 3)), torch.randn(9, 2, 5, 5)))


class Lazy(Lit):
    """A network of lazy layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(2))


@pytest.mark.parametrize("checks", [0, 1])
def test_a_fit_needs_no_forward_before(checks, tmp_path):
    model = build(Lazy)
    run = fit(model, val=loader(), num_sanity_val_steps=checks)
    assert list(model.target_space_engine.targets) == ["net.0", "net.3"]
    assert model.losses[-1] < model.losses[0]
    run.save_checkpoint(tmp_path / "end.ckpt")
    fit(model, max_epochs=3, ckpt_path=tmp_path / "end.ckpt")
    again = build(Lazy, seed=1)
    fit(again, max_epochs=3, ckpt_path=tmp_path / "end.ckpt")
    assert_equal(again.state_dict(), model.state_dict())
