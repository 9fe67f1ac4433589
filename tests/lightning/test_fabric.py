"""The engine in a loop of Lightning Fabric."""

import pytest
import torch
from lightning.fabric import Fabric

from tests.support.fits import CONFIG, Plain, build, data, loader
from ts_lightning import TargetSpace


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_trains(precision):
    model = build(Plain)
    space = TargetSpace(model, data()[0][:32], CONFIG)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    space.substitute(optimizer)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    module, optimizer = fabric.setup(model, optimizer)
    losses = []
    for _ in range(20):
        for x, y in loader():
            loss = torch.nn.functional.cross_entropy(module(x), y)
            optimizer.zero_grad()
            fabric.backward(loss)
            space.pullback()
            optimizer.step()
            space.solve()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
