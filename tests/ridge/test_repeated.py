"""Inputs that stay the same are factorised once, to the last bit as if they were factorised in every solve."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.ridge.system import RidgeSolver


def samples(rows=30, features=5):
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(0))


def made(features=5, before=None, config=None, rows=30):
    torch.manual_seed(0)
    layers = [nn.Linear(features, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)]
    model = nn.Sequential(*([before] if before else []), *layers)
    return model, TargetSpace(model, samples(rows, features), config)


def trained(model, space, steps=4):
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    x = samples(8, space.cascade.reference.batch.data.shape[1])
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), torch.arange(8) % 2).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return [p.detach().clone() for p in model.parameters()]


@pytest.fixture
def factorised(monkeypatch):
    """The names of the layers that were factorised, in order."""
    found = []
    own = RidgeSolver._factorise

    def counted(self, *args, **options):
        found.append(self.label)
        return own(self, *args, **options)

    monkeypatch.setattr(RidgeSolver, "_factorise", counted)
    return found


FORMS = {
    "primal": (5, None),
    "dual": (40, None),
    "period": (5, TargetSpaceConfig(untangle=2)),
    "own gradients": (5, TargetSpaceConfig(cascade_gradient=False)),
    "own gradients, dual": (40, TargetSpaceConfig(cascade_gradient=False, untangle=2)),
    "feature scale": (5, TargetSpaceConfig(ridge_scale="feature")),
    "float64": (5, TargetSpaceConfig(solve_dtype="float64")),
}


@pytest.mark.parametrize(("features", "config"), FORMS.values(), ids=FORMS)
def test_the_first_layer_is_factorised_once_and_others_always(features, config, factorised, monkeypatch):
    model, space = made(features, config=config)
    factorised.clear()
    found = trained(model, space, steps=4)
    solves = 4 if config is None or config.untangle == 1 else 2
    assert factorised.count("layer '0'") == 0
    assert factorised.count("layer '2'") == factorised.count("layer '4'") == solves

    monkeypatch.setattr(RidgeSolver, "factor", lambda self, inputs, shaped, factorise: factorise())
    expected = trained(*made(features, config=config), steps=4)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


class Shift(nn.Module):
    """Adds a number that no optimizer knows of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("by", torch.zeros(()))

    def forward(self, x):
        return x + self.by


@pytest.mark.parametrize("features", [5, 40])
def test_inputs_that_change_are_seen(features, factorised):
    shift = Shift()
    model, space = made(features, before=shift)
    trained(model, space, steps=2)
    shift.by.fill_(0.5)
    trained(model, space, steps=1)
    again, fresh = made(features, before=Shift())
    again[0].by.fill_(0.5)
    with torch.no_grad():
        for name, target in space.targets.items():
            fresh.targets[name].copy_(target)
    fresh.solve()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_frozen_parameters_that_are_written_are_seen():
    torch.manual_seed(0)
    norm = nn.LayerNorm(5).requires_grad_(False)
    model, space = made(before=norm)
    weight = model[1].weight.detach().clone()
    with torch.no_grad():
        norm.weight.mul_(torch.arange(1.0, 6.0))
    space.solve()
    changed = model[1].weight.detach().clone()
    space.solve()
    assert not torch.allclose(changed, weight, rtol=1e-2)
    assert torch.equal(model[1].weight, changed)


class Rows(nn.Module):
    """Solves from a parameter itself, which a write by ``data`` or by another library changes without a trace."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(samples(), requires_grad=False)
        self.solved = nn.Linear(5, 2)

    def forward(self, x):
        return self.solved(self.rows)


@pytest.mark.parametrize("write", [lambda rows: rows.data.mul_(3.0), lambda rows: rows.detach().numpy().__imul__(3.0)])
def test_inputs_that_are_written_without_a_trace_are_seen(write):
    torch.manual_seed(0)
    model = Rows()
    space = TargetSpace(model, samples())
    space.solve()
    write(model.rows)
    space.solve()
    torch.manual_seed(0)
    fresh = Rows()
    fresh.rows.data.mul_(3.0)
    other = TargetSpace(fresh, samples())
    with torch.no_grad():
        other.targets["solved"].copy_(space.targets["solved"])
    other.solve()
    torch.testing.assert_close(model.solved.weight, fresh.solved.weight, rtol=1e-5, atol=1e-6)


def test_another_reference_batch_is_factorised_anew(factorised):
    model, space = made()
    space.refresh(samples(30) * 2)
    found = trained(model, space, steps=2)
    factorised.clear()
    space.refresh(samples(30) * 3)
    trained(model, space, steps=2)
    assert 0 < factorised.count("layer '0'") < factorised.count("layer '2'")
    assert not torch.equal(found[0], next(model.parameters()))


def test_a_forward_that_writes_to_its_input():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(5, 5, bias=False), nn.Linear(5, 2)

        def forward(self, x):
            y = self.first(x)
            x.mul_(2.0)
            return self.second(torch.tanh(y) + x)

    torch.manual_seed(0)
    model = Writes()
    space = TargetSpace(model, samples())
    first = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        space.solve()
        assert all(torch.equal(one, other) for one, other in zip(model.parameters(), first, strict=True))
