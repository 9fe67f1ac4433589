"""Modules whose mode is no plain attribute: those of TorchScript, and those that make a property of it."""

import pytest
import torch
from torch import nn

from ts_lightning import TargetSpace, TargetSpaceConfig


class Property(nn.Module):
    """Keeps its mode under another name."""

    _mode = True

    @property
    def training(self):
        return self._mode

    @training.setter
    def training(self, mode):
        self._mode = mode

    def forward(self, x):
        return x + self._mode  # that of the pass is 0


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(nn.Sequential(nn.Dropout(0.5))),
        lambda: torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())),
        Property,
    ],
    ids=["scripted dropout", "scripted layers", "property"],
)
def test_the_mode_is_put_back(make, training):
    torch.manual_seed(0)
    x = torch.randn(30, 3)
    model = nn.Sequential(nn.Linear(3, 4), make(), nn.Linear(4, 2)).train(training)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    space = TargetSpace(model, x, TargetSpaceConfig(ridge=0.1))
    space.solve()
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    model.eval()
    h = model[:2](x)  # as the solve sees it
    a = torch.cat([h, torch.ones(30, 1)], 1)
    ridge = 0.1 * h.var(0, correction=0).sum()
    w = torch.linalg.solve(a.T @ a + ridge * torch.eye(5), a.T @ (space.targets["2"] * space.units["2"]))
    torch.testing.assert_close(model[2].weight, w[:4].T, rtol=1e-3, atol=1e-4)
