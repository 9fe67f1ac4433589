"""Modules of TorchScript stay in weight space, and what they write in the reference pass is undone."""

import pytest
import torch
from torch import nn

from tests.support.middles import EXACT, batch, net
from ts_lightning import TargetSpace

SCRIPTS = {
    "scripted": torch.jit.script,
    "traced": lambda module: torch.jit.trace(module.eval(), torch.zeros(4, 6).double()).train(),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make", SCRIPTS.values(), ids=SCRIPTS)
def test_torchscript_stays_in_weight_space_and_its_buffers_as_they_are(make):
    model = net(lambda m, h: m.e(h), e=None)
    model[2].e = make(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).double())
    model.train()
    model(batch(8, seed=2))
    buffers = [buffer.clone() for buffer in model[2].buffers()]
    space = TargetSpace(model, batch(), EXACT)
    space.solve()
    assert len(buffers) == 3
    for buffer, value in zip(model[2].buffers(), buffers, strict=True):
        assert torch.equal(buffer, value)
    assert [(name, reason) for name, _, reason in space.left] == [("2.e.0", "of TorchScript")]
    model(batch(8, seed=2)).square().sum().backward()
    assert space.pullback()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("make", SCRIPTS.values(), ids=SCRIPTS)
def test_running_statistics_of_torchscript_may_move_between_solve_and_pull_back(make):
    gradients = []
    for moved in (False, True):
        model = net(lambda m, h: m.e(h), e=None)
        model[2].e = make(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).double())
        space = TargetSpace(model, batch(), EXACT)
        if moved:
            with torch.no_grad():
                for buffer in model[2].buffers():
                    buffer.add_(1)
        model[4].weight.grad = torch.ones_like(model[4].weight)
        space.pullback()
        gradients.append(space.targets["0"].grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_frozen_torchscript_has_no_mode():
    model = net(lambda m, h: m.e(h), e=None)
    model[2].e = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.Tanh()).double().eval()))
    space = TargetSpace(model, batch(), EXACT)
    model(batch(8, seed=2)).square().sum().backward()
    assert space.pullback()
