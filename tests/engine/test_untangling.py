"""Untangling at a period: when it happens, the period's length, and going on within it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.nets import Dense
from tests.support.untangling import (
    CASES,
    CONFIG,
    PROJECTED,
    inputs_of,
    made,
    move,
    pulled_back,
    solved,
    step,
    weights,
)
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError


def test_one_is_the_full_solve_at_every_step_to_the_last_bit():
    found = []
    for untangle in (1, 2):
        model, space, x = made("dense", untangle, torch.float32)
        optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
        for _ in range(4):
            if untangle == 2:
                space.cascade.untangling.end_period()
            step(model, space, optimizer, x)
        found.append(torch.cat([t.detach().flatten() for ts in weights(space).values() for t in ts]))
    assert torch.equal(*found)
    assert "untangling" not in made("dense", 1)[1].state_dict()


@pytest.mark.parametrize("case", [*CASES, *PROJECTED])
def test_a_graph_that_lasts_gives_the_same_bits(case):
    """Behind a resumed state the graph lasts where it did not: projected states had gradients with other last bits."""
    found = []
    for untangle in (1, 3):
        _, space, _ = made(case, untangle, torch.float32)
        generator = torch.Generator().manual_seed(1)
        found.append(pulled_back(space, [torch.randn(p.shape, generator=generator) for p in solved(space)]))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def kinds(space, steps, **changes):
    """Whether each of so many solves was kept."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        move(space, generator, **changes)
        space.solve()
        found.append(space.cascade.solution.kept)
    return found


def test_a_fixed_period_untangles_in_every_kth_solve():
    _, space, _ = made("dense", 3)
    assert kinds(space, 7) == [True, True, False, True, True, False, True]


def test_what_changes_the_inputs_or_takes_weights_over_untangles():
    model, space, x = made("dense", 50)
    assert kinds(space, 2) == [True, True]

    def frozen(value):
        model.hidden[1].weight.requires_grad_(not value)
        space.solve()

    def loaded():
        state = space.state_dict()
        space.load_state_dict(state | {"untangling": {**state["untangling"], "since": 0}})
        space.solve()

    for change in (
        space.adopt_weights,
        space.project,
        lambda: space.refresh(x[:15]),
        lambda: frozen(True),
        lambda: frozen(False),
        loaded,
    ):
        change()
        assert not space.cascade.solution.kept
        assert kinds(space, 2) == [True, True]


class Mixed(nn.Module):
    """Solved layers around others that are trained as they are, and a norm that writes to its buffers."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 6), nn.BatchNorm1d(6)
        self.plain, self.memory = nn.Linear(6, 6), nn.LSTM(2, 4, batch_first=True)
        self.middle, self.scale, self.out = nn.Linear(4, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, 2)

    def forward(self, x):
        h = torch.tanh(self.plain(torch.tanh(self.norm(self.first(x)))))
        h = self.memory(h.view(len(x), 3, 2))[0][:, -1]
        return self.out(torch.tanh(self.middle(h)) * self.scale)


MIXED = replace(CONFIG, exclude=["plain", "memory"])


def mixed(untangle):
    torch.manual_seed(0)
    model, x = Mixed().double(), torch.randn(20, 3, dtype=torch.float64)
    return model, TargetSpace(model, x, replace(MIXED, untangle=untangle)), x


def through_the_solve(values, arriving):
    """What a solve from these values pulls back of these gradients on the weights."""
    _, space, _ = mixed(1)
    with torch.no_grad():
        for parameter, value in zip(space.parameters(), values, strict=True):
            parameter.copy_(value)
    space.solve()
    return pulled_back(space, arriving)


def test_all_that_is_trained_gets_the_gradient_through_the_last_untangling():
    model, space, x = mixed(3)
    optimizer, trained = torch.optim.Adam(space.parameters(), lr=0.05), list(space.parameters())
    for kept in (False, True, True, False, True):
        assert space.cascade.solution.kept == kept
        if not kept:
            began = [p.detach().clone() for p in trained]
        optimizer.zero_grad()
        functional.cross_entropy(model(x), torch.arange(20) % 2).backward()
        direct = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained]
        share = through_the_solve(began, [p.grad for p in solved(space)])
        space.pullback()
        for parameter, own, pulled in zip(trained, direct, share, strict=True):
            torch.testing.assert_close(parameter.grad, own + pulled, rtol=1e-9, atol=1e-12)
        assert sum(pulled.norm() > 1e-6 for pulled in share) > 8
        optimizer.step()
        space.solve()


def test_a_state_goes_on_where_other_parameters_are_trained_too():
    model, space, x = mixed(4)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.05)

    def train(model, space, optimizer, steps):
        for _ in range(steps):
            step(model, space, optimizer, x)

    for _ in range(3):
        train(model, space, optimizer, 1)
        other = copy.deepcopy(model)
        state, own = copy.deepcopy(space.state_dict()), copy.deepcopy(optimizer.state_dict())
        goes_on = TargetSpace(other, x, replace(MIXED, untangle=4), state=state)
        continued = torch.optim.Adam(goes_on.parameters(), lr=0.05)
        continued.load_state_dict(own)
        train(other, goes_on, continued, 3)
        again = copy.deepcopy(model), space.state_dict(), copy.deepcopy(optimizer.state_dict())
        train(model, space, optimizer, 3)
        assert _same(weights(goes_on), weights(space))
        assert all(torch.equal(a, b) for a, b in zip(goes_on.parameters(), space.parameters(), strict=True))
        model.load_state_dict(again[0].state_dict())
        space.load_state_dict(again[1])
        optimizer.load_state_dict(again[2])
        space.solve()


@pytest.mark.parametrize("untangle", [1, 3])
def test_what_a_forward_changes_in_place_is_no_silent_error(untangle):
    class Careless(Dense):
        def forward(self, x):
            h = torch.tanh(self.hidden[0](x))
            y = torch.tanh(self.hidden[1](h))
            h += 1  # what the backward of the first tanh needs
            return self.readout(y)

    torch.manual_seed(0)
    model, x = Careless(3, 5, 2), torch.randn(20, 3)
    space = TargetSpace(model, x, replace(CONFIG, untangle=untangle))
    with pytest.raises(TargetSpaceError, match="writes in place"):
        pulled_back(space, [torch.ones_like(p) for p in solved(space)])


def test_the_jump_is_the_median_change_of_the_weights_at_a_scheduled_untangling(monkeypatch):
    _, space, _ = made("dense", "auto")
    generator, jumps = torch.Generator().manual_seed(1), []
    judge = space.cascade.untangling.period.judge
    monkeypatch.setattr(space.cascade.untangling.period, "judge", lambda jump: jumps.append(jump) or judge(jump))
    expected = []
    for _ in range(3):
        space.cascade.untangling.period.length = 1
        inputs = inputs_of(space)
        move(space, generator)
        kept = {
            layer.name: layer.solve(inputs[layer.name], space.targets[layer.name].detach())[0] for layer in space.layers
        }
        space.solve()
        each = []
        for name, values in weights(space).items():
            fresh, old = (torch.cat([v.flatten() for v in vs]).detach() for vs in (values, kept[name]))
            each.append(float((fresh - old).norm() / fresh.norm()))
        expected.append(sorted(each)[(len(each) - 1) // 2])
    assert jumps == pytest.approx([expected[0], expected[2]], rel=1e-8)  # the second one goes by without


def test_small_steps_lengthen_the_period_and_large_ones_shorten_it():
    _, space, _ = made("dense", "auto")
    found = kinds(space, 40, by=1e-5)
    assert space.cascade.untangling.period.length == 16
    assert found.count(False) == 5  # after 1, 2, 4, 8 and 16
    kinds(space, 64, by=3.0)
    assert space.cascade.untangling.period.length < 4


def test_where_every_solve_untangles_ever_fewer_are_judged(monkeypatch):
    _, space, _ = made("dense", "auto")
    period, jumps = space.cascade.untangling.period, [1.0] * 6 + [0.01]
    judged, solves = [], []
    monkeypatch.setattr("ts_lightning.engine.solving.cascade.jump", lambda *_: torch.tensor(jumps[len(judged)]))
    judge = period.judge
    monkeypatch.setattr(period, "judge", lambda jump: judged.append(len(solves)) or judge(jump))
    while len(judged) < len(jumps):
        solves.append(1)
        space.solve()
    assert judged == [1, 3, 7, 15, 23, 31, 39]
    assert period.length == 2
    judged.clear()
    solves.clear()
    jumps[:] = [0.1] * 3
    for _ in range(6):
        solves.append(1)
        space.solve()
    assert judged == [2, 4, 6]  # every one again


def test_settings():
    with pytest.raises(ValueError, match="untangle"):
        TargetSpaceConfig(untangle=0)
    with pytest.raises(TypeError, match="untangle"):
        TargetSpaceConfig(untangle="often")
    with pytest.raises(ValueError, match="cuda_graphs"):
        TargetSpaceConfig(untangle="auto", cuda_graphs=True)


@pytest.mark.parametrize("case", ["dense", "dense, dual", "conv", "conv, all rows", "lstm", "gru", "attention"])
@pytest.mark.parametrize("untangle", [4, "auto"])
@pytest.mark.parametrize("through", [True, False])
def test_a_state_goes_on_with_the_same_bits_at_any_phase(case, untangle, through, tmp_path):
    model, space, x = made(case, untangle, torch.float32, cascade_gradient=through)
    generator = torch.Generator().manual_seed(1)
    states = []
    for _ in range(7):
        move(space, generator, 1e-3)
        space.solve()
        torch.save(space.state_dict(), tmp_path / "state.pt")
        states.append((torch.load(tmp_path / "state.pt", weights_only=True), generator.get_state(), weights(space)))
    for state, drawn, before in states:
        other = copy.deepcopy(model)
        goes_on = TargetSpace(
            other, x, replace(CASES[case][3], untangle=untangle, cascade_gradient=through), state=state
        )
        assert _same(weights(goes_on), before)
        generator.set_state(drawn)
        for _ in range(5):
            move(goes_on, generator, 1e-3)
            goes_on.solve()
        generator.set_state(drawn)
        space.load_state_dict(state)
        space.solve()
        assert _same(weights(space), before)
        for _ in range(5):
            move(space, generator, 1e-3)
            space.solve()
        assert _same(weights(space), weights(goes_on))


def _same(found, expected):
    return all(torch.equal(a, b) for name in expected for a, b in zip(found[name], expected[name], strict=True))
