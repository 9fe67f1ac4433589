"""A start from given weights changes no bit of them, so that no network magnifies what rounding would change."""

import copy

import pytest
import torch
from torch import nn

from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attention, self.readout = nn.Linear(5, 6), nn.MultiheadAttention(6, 2), nn.Linear(6, 2)

    def forward(self, x):
        h = self.embed(x)
        return self.readout(self.attention(h, h.flip(0).tanh(), h)[0])


class Twice(nn.Module):
    """A weight (in, out) that functions apply, and a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.weight, self.dense, self.readout = nn.Parameter(torch.randn(5, 5)), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.readout(self.dense(torch.tanh(self.dense(x @ self.weight))))


def convolutions():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False)]
    up = [nn.ConvTranspose2d(8, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)]
    model = nn.Sequential(*layers, nn.ReLU(), *up)
    model(torch.randn(2, 3, 9, 9))
    return model


MODELS = {
    "dense": (lambda: nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 2)), (30, 5)),
    "fewer rows than inputs": (lambda: nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 2)), (8, 40)),
    "convolutions": (convolutions, (12, 3, 9, 9)),
    "attention": (Attend, (12, 5, 5)),
    "functions": (Twice, (30, 5)),
    "bilinear": (lambda: nn.Bilinear(5, 4, 3), None),
}


@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("rows", ["auto", 20])
@pytest.mark.parametrize("name", MODELS)
def test_no_bit_changes(name, rows, method):
    if method == "ocu" and rows != "auto":
        pytest.skip("targets are passed on from all rows")
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make()
    before = copy.deepcopy(model.state_dict())
    batch = (torch.randn(30, 5), torch.randn(30, 4)) if shape is None else torch.randn(shape)
    config = TargetSpaceConfig(init="weights", method=method, reference=ReferenceConfig(rows=rows))
    space = TargetSpace(model, batch, config)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    again = TargetSpace(make(), batch, config, state=space.state_dict())
    assert again.units == space.units
    assert all(torch.equal(value, before[key]) for key, value in again.model.state_dict().items())


def test_outputs_that_vanish_are_kept():
    """MobileNet's in eval mode: signals die out behind layers whose running statistics never saw a batch."""
    torch.manual_seed(0)
    layers = [[nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Tanh()] for _ in range(10)]
    model = nn.Sequential(*(layer for three in layers for layer in three), nn.Flatten(), nn.Linear(64, 2))
    nn.init.zeros_(model[-1].bias)
    x, others = torch.randn(8, 4, 4, 4), torch.randn(8, 4, 4, 4)
    before = model.eval()(others)
    assert 0 < before.abs().max() < 1e-2
    TargetSpace(model.train(), x, TargetSpaceConfig(init="weights"))
    assert torch.equal(model.eval()(others), before)


def test_a_new_reference_batch_keeps_the_units():
    torch.manual_seed(0)
    model = MODELS["dense"][0]()
    space = TargetSpace(model, torch.randn(30, 5), TargetSpaceConfig(init="weights"))
    units, before = space.units, model[2].weight.detach().clone()
    space.refresh(torch.randn(30, 5))
    assert space.units == units
    assert torch.equal(model[2].weight, before)


SEEN = []  # not in the module, whose own a reference pass undoes


class Watched(nn.Module):
    """Sees whether gradients are wanted, on which PyTorch's choice of a product may depend."""

    def __init__(self):
        super().__init__()
        self.dense, self.readout = nn.Linear(5, 7), nn.Linear(7, 2)

    def forward(self, x):
        h = self.dense(x)
        SEEN.append(torch.is_grad_enabled() and h.requires_grad)
        return self.readout(torch.tanh(h))


def test_weights_are_taken_over_as_they_are_solved():
    model = Watched()
    space = TargetSpace(model, torch.randn(30, 5), TargetSpaceConfig(init="weights"))
    assert SEEN[-2:] == [True, True]  # of the start, and of the first solve
    for act in (space.adopt_weights, space.project):
        SEEN.clear()
        with torch.no_grad():
            act()
        assert SEEN == [True, True]
    SEEN.clear()
    model.dense.requires_grad_(False)
    space.solve()
    model.dense.requires_grad_(True)
    space.solve()
    assert SEEN == [False, True, True]  # frozen, then anchored and solved
