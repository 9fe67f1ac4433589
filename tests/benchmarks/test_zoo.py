"""Models of many styles convert by default, train, and have exact gradients."""

import pytest
import torch

from benchmarks.zoo_models import MODELS
from tests.support.exactness import check_differences, gradients, random_targets
from ts_lightning import TargetSpace, TargetSpaceConfig

#: of the parameters, at least
SHARES = {
    "Swin": 0.9,
    "GPT-2": 0.8,
    "GCN": 0.9,
    "GAT": 0.9,
    "SAGE": 0.9,
    "U-Net": 0.9,
    "DCGAN": 0.9,
    "T5": 0.7,
    "cells in a loop": 0.1,
}
#: what is left of each, but for tables of words
LEFT = {
    "GAT": {"att"},
    "GPT-2": {"readout"},
    "Mamba": {""},
    "Swin": {""},
    "cells in a loop": {"cell"},
    "experts": {""},
    "standardised weights": {"0"},
}


def made(name):
    torch.manual_seed(0)
    model, arguments = MODELS[name]()
    return model, arguments


def trainable(model):
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore:Left out of target space because they are frozen")
@pytest.mark.parametrize("name", MODELS)
def test_it_converts_by_default_and_trains(name):
    model, arguments = made(name)
    space = TargetSpace(model, arguments)
    solved = sum(p.numel() for layer in space.layers for p in layer.parameters)
    assert solved >= SHARES.get(name, 0.3) * trainable(model)
    assert {left.name for left in space.left if left.reason != "a table"} == LEFT.get(name, set())
    optimizer = torch.optim.Adam(space.parameters(), 0.002)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(*arguments).square().mean()
        loss.backward()
        space.pullback()
        optimizer.step()
        space.solve()
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "LoRA"])
def test_its_gradients_predict_finite_differences(name):
    model, arguments = made(name)
    arguments = [x.double() if x.is_floating_point() else x for x in arguments]
    generator = torch.Generator().manual_seed(0)
    space = TargetSpace(model.double(), tuple(arguments), TargetSpaceConfig(ridge=0.3, step_scale=1.0))
    random_targets(space, generator)
    torch.manual_seed(1)
    batch = [x + torch.randn_like(x) if x.is_floating_point() else x.flip(-1) for x in arguments]

    def loss(model):
        return model(*batch).square().mean()

    check_differences(space, model, loss, gradients(space, model, loss), generator)
