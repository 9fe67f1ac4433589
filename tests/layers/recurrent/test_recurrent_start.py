"""Where recurrent layers start: from a model's own weights, and normalised."""

import warnings

import pytest
import torch
from torch import nn

from tests.layers.recurrent.test_recurrent import CELLS, STACKS
from tests.support.exactness import close
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig
from ts_lightning.layers.recurrent.layer import RecurrentLayer

RIDGES = [("absolute", 0.1), ("variance", 0.01), ("variance", 1.0), ("feature", 0.1), ("mean", 0.1)]


def build(cell, samples, steps=9, **options):
    torch.manual_seed(1)
    kind, more = CELLS[cell]
    return kind(3, 4, **more, **options).double(), torch.randn(steps, samples, 3, dtype=torch.float64)


@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize(("scale", "ridge"), RIDGES)
@pytest.mark.parametrize("stack", ["one", "no bias", "stacked both ways"])
@pytest.mark.parametrize("cell", CELLS)
def test_given_weights_are_kept(cell, stack, scale, ridge, method):
    # a small ridge by the fixed point, a large one by the last steps
    model, x = build(cell, 40, **STACKS[stack])
    before = [p.detach().clone() for p in model.parameters()]
    outputs = model(x)[0].detach()
    config = TargetSpaceConfig(ridge=ridge, ridge_scale=scale, method=method, init="weights")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TargetSpace(model, x, config)
    assert close(model(x)[0], outputs, 1e-8)
    for p, kept in zip(model.parameters(), before, strict=True):
        if p.dim() == 2:  # the two biases are one
            assert close(p, kept, 1e-8)


def test_given_weights_and_sampled_rows():
    model, x = build("lstm", 40)
    outputs = model(x)[0].detach()
    config = TargetSpaceConfig(ridge=0.01, ridge_scale="absolute", init="weights", reference=ReferenceConfig(rows=100))
    TargetSpace(model, x, config)
    assert close(model(x)[0], outputs, 1e-8)


@pytest.mark.parametrize(("cell", "inputs"), [("tanh", 1), ("lstm", 8), ("gru", 8)])
def test_given_weights_and_fewer_sampled_sequences_than_inputs(cell, inputs):
    # too few last steps, and plain repetition swings apart
    torch.manual_seed(0)
    model = CELLS[cell][0](inputs, 40).double()
    nn.init.orthogonal_(model.weight_hh_l0)
    x = torch.randint(2, (110, 100, inputs)).double()
    outputs = model(x)[0].detach()
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert len(space.layers[0].part.samples) < space.layers[0].columns
    assert close(model(x)[0], outputs, 1e-8)


def test_given_weights_and_too_few_sequences():
    # three sequences for eight inputs, and a large ridge
    model, x = build("tanh", 3)
    with torch.no_grad():
        for p in model.parameters():
            p *= 3
    outputs = model(x)[0].detach()
    TargetSpace(model, x, TargetSpaceConfig(ridge=3.0, init="weights"))
    assert close(model(x)[0], outputs, 1e-8)


@pytest.mark.parametrize("std", [0.3, None])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_a_normalised_start_has_inputs_of_the_asked_spread_and_states_that_live(cell, packed, std):
    torch.manual_seed(0)
    rnn, readout = CELLS[cell][0](3, 30, num_layers=2), nn.Linear(30, 2)
    model = nn.ModuleList([rnn, readout])
    x = torch.randn(20, 50, 3)
    given = nn.utils.rnn.pack_padded_sequence(x, torch.arange(50) % 20 + 1, enforce_sorted=False) if packed else x
    model.forward = lambda x: readout(rnn(x)[0].data if packed else rnn(x)[0])
    config = TargetSpaceConfig(ridge=0.01, init_std=std)
    space = TargetSpace(model, (given,), config)
    inputs = float((x.flatten(0, 1) @ rnn.weight_ih_l0.detach().T).std())
    assert inputs == pytest.approx(std or RecurrentLayer.normalised_std, rel=0.35)
    states = rnn(given)[0].data[-50:].detach()
    assert 0.02 < float(states.std()) < 0.9
    residuals = space.residuals()
    assert max(residuals.values()) < 0.6
    # orthogonal recurrent weights, but for the ridge
    values = torch.linalg.svdvals(rnn.weight_hh_l0.detach()[:30].double())
    assert float(values.max()) < 1.3
