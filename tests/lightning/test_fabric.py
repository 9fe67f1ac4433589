"""The engine in a loop of Lightning Fabric trains as it does in a plain one."""

import pytest
import torch
from lightning.fabric import Fabric
from torch.nn import functional

from tests.support.fits import CONFIG, Plain, assert_equal, build, data, loader
from ts_lightning import TargetSpace


def trained(precision, setup):
    """A model after 80 steps, whose forward, optimizer and backward pass are those that ``setup`` makes."""
    model = build(Plain)
    space = TargetSpace(model, data()[0][:32], CONFIG)
    start = float(model.loss(data()).detach())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    space.substitute(optimizer)
    forward, optimizer, backward = setup(precision, model, optimizer)
    for _ in range(20):
        for x, y in loader():
            loss = functional.cross_entropy(forward(x), y)
            optimizer.zero_grad()
            backward(loss)
            space.pullback()
            optimizer.step()
            space.solve()
    return model, start


def by_fabric(precision, model, optimizer):
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    return *fabric.setup(model, optimizer), fabric.backward


def by_torch(precision, model, optimizer):
    def forward(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            return model(x).float()

    return forward, optimizer, torch.Tensor.backward


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains(precision):
    model, start = trained(precision, by_fabric)
    assert float(model.loss(data()).detach()) < 0.6 * start
    assert_equal(model, trained(precision, by_torch)[0])
