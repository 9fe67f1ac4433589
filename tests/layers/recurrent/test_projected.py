"""nn.LSTM with proj_size: exact gradients, the module's own forward, and two dense solves for each layer."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tests.support.exactness import check_differences, close, gradients, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig

STACKS = {
    "one": {},
    "no bias": {"bias": False},
    "stacked": {"num_layers": 2},
    "both ways": {"bidirectional": True, "batch_first": True},
}
LENGTHS = [5, 2, 4, 5, 3, 1, 5]


class Tagger(nn.Module):
    def __init__(self, packed=False, **options):
        super().__init__()
        self.rnn, self.packed = nn.LSTM(3, 5, proj_size=2, **options), packed
        self.readout = nn.Linear(4 if options.get("bidirectional") else 2, 2)

    def forward(self, x):
        if self.packed:
            x = pack_padded_sequence(x, LENGTHS[: x.shape[1]], enforce_sorted=False)
        y, (h, c) = self.rnn(x)
        if self.packed:
            y, _ = pad_packed_sequence(y)
        return self.readout(torch.tanh(y)), h, c


def network(stack="one", packed=False):
    torch.manual_seed(0)
    model = Tagger(packed, **STACKS[stack]).double()
    shape = (7, 5, 3) if model.rnn.batch_first else (5, 7, 3)
    return model, torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


def loss_on(x):
    return lambda model: sum(z.square().sum() for z in model(x))


@pytest.mark.parametrize(("method", "rows"), [("scu", "auto"), ("scu", 20), ("ocu", "auto")])
@pytest.mark.parametrize("stack", STACKS)
def test_gradients_predict_finite_differences(stack, method, rows):
    model, x, others = network(stack)
    config = TargetSpaceConfig(ridge=0.3, step_scale=1.0, method=method, reference=ReferenceConfig(rows=rows))
    space = TargetSpace(model, x, config)
    assert space.left == []
    check(space, loss_on(others))


@pytest.mark.parametrize("scale", ["absolute", "mean", "feature"])
def test_gradients_with_packed_sequences_in_every_scale(scale):
    model, x, others = network(packed=True)
    check(TargetSpace(model, x, TargetSpaceConfig(ridge=0.3, ridge_scale=scale, step_scale=1.0)), loss_on(others))


def test_gradients_around_given_weights():
    model, x, others = network("stacked")
    check(TargetSpace(model, x, TargetSpaceConfig(ridge=0.3, init="weights", step_scale=1.0)), loss_on(others))


def check(space, loss):
    generator = torch.Generator().manual_seed(1)
    random_targets(space, generator)
    check_differences(space, space.model, loss, gradients(space, space.model, loss), generator)


@pytest.mark.parametrize("packed", [False, True])
def test_both_systems_are_dense_solves(packed):
    model, x, _ = network(packed=packed)
    settings = {"ridge": 0.3, "ridge_scale": "absolute", "step_scale": 1.0, "forget_bias": 1.0}
    space = TargetSpace(model, x, TargetSpaceConfig(**settings))
    random_targets(space, torch.Generator().manual_seed(1))
    target = space.targets["rnn.l0"].detach()
    if packed:
        sequences = pack_padded_sequence(x, LENGTHS, enforce_sorted=False)
        target = pad_packed_sequence(type(sequences)(target, *sequences[1:]))[0]
        lengths = torch.tensor(LENGTHS)
    else:
        lengths = torch.full((7,), 5)
    cells, c = [], torch.zeros(7, 5).double()
    for t in target[..., :20]:
        i, f, g, o = t.chunk(4, -1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
        cells.append(torch.sigmoid(o) * torch.tanh(c))
    m, real = torch.stack(cells), (torch.arange(5)[:, None] < lengths).flatten()
    v = ridge(m.flatten(0, 1)[real], target[..., 20:].flatten(0, 1)[real])
    assert close(model.rnn.weight_hr_l0, v.T)
    h = torch.cat([torch.zeros(1, 7, 2).double(), (m @ v)[:-1]])
    a = torch.cat([x, torch.ones(5, 7, 1).double(), h], -1).flatten(0, 1)[real]
    w = ridge(a, target[..., :20].flatten(0, 1)[real])
    assert close(model.rnn.weight_ih_l0, w[:3].T)
    assert close(model.rnn.weight_hh_l0, w[4:].T)
    bias = w[3].clone()
    bias[5:10] += 1
    assert close(model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0, bias)


def ridge(a, t):
    return torch.linalg.solve(a.T @ a + 0.3 * torch.eye(a.shape[1]).double(), a.T @ t)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_a_start_from_the_weights_keeps_the_function_and_the_pass_runs_it(stack, packed):
    if packed and stack == "both ways":
        pytest.skip("time is first in the packed case")
    model, x, others = network(stack, packed)
    before = [z.detach() for z in model(others)]
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert all(close(after, old, 1e-10) for after, old in zip(model(others), before, strict=True))
    found = []

    def run(layer, x):
        solved = layer.solve(x, space.targets[layer.name])
        found.append(solved[1])
        return solved

    space.cascade.reference.walk(run)
    assert close(found[-1], model.readout(torch.tanh(on_reference_outputs(model, x))), 1e-10)


def on_reference_outputs(model, x):
    if model.packed:
        return pad_packed_sequence(model.rnn(pack_padded_sequence(x, LENGTHS, enforce_sorted=False))[0])[0]
    return model.rnn(x)[0]


def test_targets_that_reproduce_given_weights_around_zero():
    model, x, _ = network()
    space = TargetSpace(model, x, TargetSpaceConfig(ridge=0.01))
    before = [z.detach() for z in model(x)]
    assert space.refresh(x) < 1e-6
    assert all(close(after, old, 1e-6) for after, old in zip(model(x), before, strict=True))


def test_weights_between_two_untanglings():
    model, x, others = network("stacked")
    space = TargetSpace(model, x, TargetSpaceConfig(untangle=3))
    optimizer = torch.optim.Adam(space.parameters(), 0.01)

    def loss():
        return (model(others)[0] - 1).square().mean()

    before = float(loss().detach())
    for _ in range(9):
        optimizer.zero_grad()
        loss().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert float(loss().detach()) < 0.9 * before
    again, _, _ = network("stacked")
    TargetSpace(again, x, TargetSpaceConfig(untangle=3), state=space.state_dict())
    assert all(close(p, q, 1e-9) for p, q in zip(again.parameters(), model.parameters(), strict=True))
