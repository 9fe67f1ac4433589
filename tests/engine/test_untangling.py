"""Untangling at a period: when it happens, the period's length, and going on within it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from tests.support.nets import Dense
from tests.support.untangling import CASES, CONFIG, inputs_of, made, move, step, weights
from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.engine.untangling import Untangling


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


def through_the_solve(untangle, targets, others, arriving):
    """What is pulled back to the norm by a solve from these values, for these gradients on the weights."""
    torch.manual_seed(0)
    model, x = Dense(3, 5, 2, norm=True).double(), torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, x, replace(CONFIG, untangle=untangle))
    with torch.no_grad():
        for name, value in targets.items():
            space.targets[name].copy_(value)
        for own, value in zip(model.norms.parameters(), others, strict=True):
            own.copy_(value)
    space.solve()
    for parameter, gradient in zip([p for layer in space.layers for p in layer.parameters], arriving, strict=True):
        parameter.grad = gradient
    space.pullback()
    return [p.grad for p in model.norms.parameters()]


def test_other_parameters_get_the_share_that_they_had_at_the_last_untangling():
    torch.manual_seed(0)
    model, x = Dense(3, 5, 2, norm=True).double(), torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, x, replace(CONFIG, untangle=3))
    generator, norms = torch.Generator().manual_seed(1), list(model.norms.parameters())
    for kept in (False, True, True, False):
        assert space.cascade.solution.kept == kept
        if not kept:
            began = {name: target.detach().clone() for name, target in space.targets.items()}
            others = [p.detach().clone() for p in norms]
        loss = functional.cross_entropy(model(x), torch.arange(20) % 2)
        weights = [p for layer in space.layers for p in layer.parameters]
        grads = torch.autograd.grad(loss, [*norms, *weights], retain_graph=True)
        for parameter in norms:
            parameter.grad = None
        loss.backward()
        space.pullback()
        expected = through_the_solve(1, began, others, [g.clone() for g in grads[len(norms) :]])
        for parameter, direct, share in zip(norms, grads, expected, strict=False):
            torch.testing.assert_close(parameter.grad, direct + share, rtol=1e-10, atol=1e-13)
            assert share.norm() > 1e-6
        move(space, generator)
        with torch.no_grad():
            for parameter in norms:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        space.solve()


@pytest.mark.parametrize(
    ("period", "jump", "then"),
    [(1, 0.2, 1), (8, 0.16, 4), (8, 0.15, 8), (8, 0.05, 8), (8, 0.04, 16), (16, 0.0, 16), (4, math.nan, 4)],
)
def test_the_period_follows_the_jump(period, jump, then):
    controller = Untangling("auto", [], None)
    assert controller.period == 1
    controller.period = period
    controller.judge(jump)
    assert controller.period == then


def test_the_jump_is_the_median_change_of_the_weights_at_a_scheduled_untangling(monkeypatch):
    _, space, _ = made("dense", "auto")
    generator, jumps = torch.Generator().manual_seed(1), []
    judge = space.cascade.untangling.judge
    monkeypatch.setattr(space.cascade.untangling, "judge", lambda jump: jumps.append(jump) or judge(jump))
    expected = []
    for _ in range(3):
        space.cascade.untangling.period = 1
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
    assert jumps == pytest.approx(expected, rel=1e-8)


def test_small_steps_lengthen_the_period_and_large_ones_shorten_it():
    _, space, _ = made("dense", "auto")
    found = kinds(space, 40, by=1e-5)
    assert space.cascade.untangling.period == 16
    assert found.count(False) == 5  # after 1, 2, 4, 8 and 16
    kinds(space, 64, by=3.0)
    assert space.cascade.untangling.period < 4


def test_settings():
    with pytest.raises(ValueError, match="untangle"):
        TargetSpaceConfig(untangle=0)
    with pytest.raises(TypeError, match="untangle"):
        TargetSpaceConfig(untangle="often")
    with pytest.raises(ValueError, match="cuda_graphs"):
        TargetSpaceConfig(untangle="auto", cuda_graphs=True)


@pytest.mark.parametrize("case", ["dense", "dense, dual", "conv", "conv, all rows", "lstm", "gru", "attention"])
@pytest.mark.parametrize("untangle", [4, "auto"])
def test_a_state_goes_on_with_the_same_bits_at_any_phase(case, untangle, tmp_path):
    model, space, x = made(case, untangle, torch.float32)
    generator = torch.Generator().manual_seed(1)
    states = []
    for _ in range(7):
        move(space, generator, 1e-3)
        space.solve()
        torch.save(space.state_dict(), tmp_path / "state.pt")
        states.append((torch.load(tmp_path / "state.pt", weights_only=True), generator.get_state(), weights(space)))
    for state, drawn, before in states:
        other = copy.deepcopy(model)
        goes_on = TargetSpace(other, x, replace(CASES[case][3], untangle=untangle), state=state)
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
