"""Solving around given weights, W = W0 + (A'A + R)^-1 A'(T - A W0): exact for every family, kept by checkpoints."""

import copy

import pytest
import torch
from torch import nn

from tests.support.exactness import check_differences, close, gradients, random_targets
from tests.support.nets import Conv, Dense, loss_on
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig

SCALES = ("absolute", "variance", "mean", "feature")


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        self.rnn, self.readout = cell(3, 4, num_layers=2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.readout(self.rnn(x)[0])[:, -1]


class Attention(nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.memory, self.attention, self.readout = (
            memory,
            nn.MultiheadAttention(4, 2, batch_first=True),
            nn.Linear(4, 2),
        )
        self.embed = nn.Linear(3, 4)

    def forward(self, x):
        x = self.embed(x)
        other = x.flip(1)[:, :3].tanh() if self.memory else x
        return self.readout(self.attention(x, other, other, need_weights=False)[0].mean(1))


CASES = {
    "dense": (lambda: Dense(3, 5, 2, 2), (12, 3), "all", SCALES),
    "dual": (lambda: Dense(9, 12, 2, 2), (6, 9), "all", SCALES),
    "conv": (lambda: Conv(2, 2, 4, 2, kernel_size=3, groups=2), (4, 2, 6, 5), "all", SCALES),
    "sampled conv": (lambda: Conv(1, 2, 4, 2, kernel_size=3), (4, 2, 9), 25, SCALES[:2]),
    "rnn": (lambda: Recurrent(nn.RNN), (6, 5, 3), "all", SCALES[:2]),
    "lstm": (lambda: Recurrent(nn.LSTM), (6, 5, 3), "all", SCALES[1:2]),
    "gru": (lambda: Recurrent(nn.GRU), (9, 5, 3), 20, SCALES[1:2]),
    "self-attention": (lambda: Attention(False), (5, 4, 3), "all", SCALES[1:3]),
    "attention": (lambda: Attention(True), (5, 4, 3), 12, SCALES[1:2]),
}
EVERY = [(name, scale) for name, (*_, scales) in CASES.items() for scale in scales]


def build(name):
    make, shape, rows, _ = CASES[name]
    torch.manual_seed(0)
    return make().double(), torch.randn(shape, dtype=torch.float64), ReferenceConfig(rows=rows)


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_weights_are_kept_and_gradients_are_exact(name, scale):
    model, x, reference = build(name)
    others = torch.randn_like(x)
    before = model(others).detach()
    config = TargetSpaceConfig(ridge=0.3, ridge_scale=scale, init="weights", step_scale=1.0, reference=reference)
    space = TargetSpace(model, x, config)
    assert close(model(others), before, 1e-10)
    generator = torch.Generator().manual_seed(1)
    random_targets(space, generator)
    assert not close(model(others), before, 1e-2)
    loss = loss_on(others, torch.arange(len(others)) % 2)
    check_differences(space, model, loss, gradients(space, model, loss), generator)


@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("name", ["dense", "dual"])
def test_the_solution_is_that_of_the_formula(name, method):
    model, x, reference = build(name)
    w0 = {
        layer: torch.cat([m.weight, m.bias[:, None]], 1).T.detach()
        for layer, m in model.named_modules()
        if layer and isinstance(m, nn.Linear)
    }
    config = TargetSpaceConfig(
        ridge=0.3, ridge_scale="absolute", init="weights", method=method, step_scale=1.0, reference=reference
    )
    space = TargetSpace(model, x, config)
    random_targets(space, torch.Generator().manual_seed(1))
    a = x
    for layer, target in space.targets.items():
        module, t = model.get_submodule(layer), target.detach()
        inputs = torch.cat([a, a.new_ones(len(a), 1)], 1)
        ridge = 0.3 * torch.eye(inputs.shape[1], dtype=a.dtype)
        w = w0[layer] + torch.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ (t - inputs @ w0[layer]))
        assert close(torch.cat([module.weight, module.bias[:, None]], 1).T, w, 1e-10), layer
        a = torch.tanh(t if method == "ocu" else inputs @ w)


def test_a_state_holds_the_anchors():
    model, x, reference = build("dense")
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights", reference=reference))
    random_targets(space, torch.Generator().manual_seed(1))
    weights = copy.deepcopy(model.state_dict())
    fresh, _, _ = build("dense")
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(1.0)
    again = TargetSpace(fresh, x, TargetSpaceConfig(init="weights", reference=reference), state=space.state_dict())
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, weights[name]), name
    random_targets(again, torch.Generator().manual_seed(2))
    again.load_state_dict(space.state_dict())
    again.solve()
    assert all(torch.equal(value, weights[name]) for name, value in fresh.state_dict().items())


def test_a_refresh_keeps_the_function_of_an_anchored_space_everywhere():
    model, x, reference = build("dual")
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights", reference=reference))
    random_targets(space, torch.Generator().manual_seed(1))
    others = torch.randn(20, 9, dtype=torch.float64)
    before = model(others).detach()
    space.refresh(torch.randn(5, 9, dtype=torch.float64))
    assert close(model(others), before, 1e-9)


class Gated(nn.Module):
    """A branch behind a scale that starts at zero."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second, self.head = (
            nn.Linear(4, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 2),
        )
        self.scale = nn.Parameter(torch.zeros(8))

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        return self.head(h + self.second(torch.relu(self.first(self.scale * h))))


@pytest.mark.parametrize("init", ["normalised", "projected", "weights"])
def test_a_layer_without_varying_inputs_is_anchored_and_trains(init):
    torch.manual_seed(0)
    model, x, y = Gated(), torch.randn(50, 4), torch.randn(50, 2)
    space = TargetSpace(model, x, TargetSpaceConfig(init=init))
    anchored = {layer.name for layer in space.layers if layer.anchor is not None}
    assert anchored >= {"first", "second"}
    assert (anchored == set(space.targets)) == (init == "weights")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(space.parameters(), lr=0.002)
    for _ in range(20):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert [name for name, value in model.state_dict().items() if torch.equal(value, before[name])] == []


class Adapted(nn.Module):
    """An adapter of rank 2 whose first factor is zero at the start, scaled by a vector, as in AdaLoRA."""

    def __init__(self):
        super().__init__()
        self.first, self.scale = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.ones(2, 1))
        self.second, self.readout = nn.Parameter(torch.randn(3, 2)), nn.Linear(3, 2)

    def forward(self, x):
        return self.readout(torch.tanh(x + x @ (self.first * self.scale).T @ self.second.T))


@pytest.mark.parametrize(("scale", "moved"), [("absolute", 0.0), ("absolute", 0.2), ("variance", 0.2)])
def test_gradients_behind_inputs_that_start_at_zero(scale, moved):
    """At zero itself a ridge in units of the inputs' variance has a kink, of which differences say nothing."""
    torch.manual_seed(0)
    model, x, generator = Adapted().double(), torch.randn(12, 3).double(), torch.Generator().manual_seed(0)
    space = TargetSpace(model, x, TargetSpaceConfig(ridge=0.3, ridge_scale=scale, step_scale=1.0))
    assert {layer.name for layer in space.layers} == {"second", "readout"}
    random_targets(space, generator)
    with torch.no_grad():
        for parameter in (model.first, model.scale):
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=moved)
    space.solve()
    loss = loss_on(x.roll(1, 1), torch.arange(len(x)) % 2)
    check_differences(space, model, loss, gradients(space, model, loss), generator)
