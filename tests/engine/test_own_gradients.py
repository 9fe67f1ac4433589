"""Situations of training without the gradient through later layers' inputs: noise, states, writes, hooks, families."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import relative
from tests.support.untangling import CASES, found_by, inputs_of, made, move, solved
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError, register_layer
from ts_lightning.layers.linear import LinearTargets


def dropped(width=12):
    """Dense layers of one shape, one of which has dropout on its inputs."""
    dense = [nn.Linear(width, width) for _ in range(4)]
    return nn.Sequential(
        dense[0], nn.Tanh(), dense[1], nn.Tanh(), nn.Dropout(0.3), dense[2], nn.Tanh(), dense[3], nn.Linear(width, 2)
    ).double()


@pytest.mark.parametrize("rows", [40, 7])
@pytest.mark.parametrize("untangle", [1, 3])
def test_noise_on_inputs_is_solved_for_as_with_the_whole_gradient(rows, untangle):
    found = []
    for whole in (True, False):
        torch.manual_seed(0)
        model, x = dropped(), torch.randn(rows, 12, dtype=torch.float64)
        space = TargetSpace(model, x, TargetSpaceConfig(untangle=untangle, cascade_gradient=whole))
        assert [layer.solver.noise is not None for layer in space.layers] == [False, False, True, False, False]
        before = torch.cat([p.detach().flatten() for p in solved(space)])
        space.solve()  # of the same targets; kept, where untangle allows it
        assert space.cascade.solution.kept == (untangle > 1)
        assert relative(torch.cat([p.detach().flatten() for p in solved(space)]), before) < 1e-12
        found.append(before)
    assert relative(found[1], found[0]) < 1e-12


@pytest.mark.parametrize("case", ["alike", "conv", "lstm", "alike without bias"])
def test_a_state_from_within_a_period_goes_on_where_every_solve_untangles(case):
    model, space, x = made(case, 3, cascade_gradient=False, ridge=0.5)
    space.adopt_weights()
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        move(space, generator)
        space.solve()
    assert space.cascade.solution.kept
    found = []
    for whole in (True, False):
        config = replace(CASES[case][3], untangle=1, cascade_gradient=whole, ridge=0.5)
        other = TargetSpace(copy.deepcopy(model), x, config, state=space.state_dict())
        assert not other.cascade.solution.kept
        found.append(torch.cat([p.detach().flatten() for p in solved(other)]))
    assert relative(found[1], found[0]) < 1e-9


@pytest.mark.parametrize("untangle", [1, 3])
@pytest.mark.parametrize("whole", [True, False])
def test_gradients_are_pulled_back_once(untangle, whole):
    model, space, x = made("alike", untangle, cascade_gradient=whole)
    model(x).square().mean().backward()
    assert space.pullback(keep=True)
    assert space.stale
    with pytest.raises(TargetSpaceError, match="called twice"):
        space.pullback()


class Writing(nn.Module):
    """Writes in place to what a layer without bias was given, in the reference pass alone."""

    def __init__(self, writes):
        super().__init__()
        self.a, self.b, self.readout = nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
        self.writes = writes

    def forward(self, x):
        h = self.a(x) * 1.0
        y = self.b(h)
        if self.writes and not self.training:
            h.add_(1)
        return self.readout(y.tanh())


@pytest.mark.parametrize("untangle", [1, 3])
def test_what_a_forward_writes_to_an_inputs_memory_changes_no_gradient(untangle):
    found = []
    for writes in (False, True):
        torch.manual_seed(0)
        model, x = Writing(writes).double(), torch.randn(20, 3, dtype=torch.float64)
        space = TargetSpace(model, x, TargetSpaceConfig(untangle=untangle, cascade_gradient=False))
        move(space, torch.Generator().manual_seed(1))
        space.solve()
        functional.cross_entropy(model(x), torch.arange(20) % 2).backward()
        space.pullback()
        found.append([*(t.grad for t in space.targets.values()), *(p.detach() for p in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_input_of_a_kept_map_is_that_of_its_untangling():
    """Also where it is a trained parameter, that an optimizer writes to before the map is applied."""

    class Prompt(nn.Module):
        def __init__(self):
            super().__init__()
            self.prompt, self.layer = nn.Parameter(torch.randn(20, 3)), nn.Linear(3, 2, bias=False)

        def forward(self, x):
            return self.layer(self.prompt) + x

    torch.manual_seed(0)
    model = Prompt().double()
    for whole in (True, False):
        space = TargetSpace(
            model, torch.zeros(20, 2, dtype=torch.float64), TargetSpaceConfig(untangle=3, cascade_gradient=whole)
        )
        before = model.layer.weight.clone()
        with torch.no_grad():
            model.prompt.mul_(2)
        space.solve()
        assert space.cascade.solution.kept
        assert relative(model.layer.weight.detach(), before.detach()) < 1e-12
        space.release()


def test_layers_without_bias_need_no_graph_either():
    _, space, _ = made("dense without bias", 1, cascade_gradient=False)
    assert not any(value.requires_grad for _, value in space.cascade.solution.pairs)


@pytest.mark.parametrize("whole", [True, False])
def test_hooks_of_targets_act(whole):
    model, space, x = made("alike", 1, cascade_gradient=whole)
    handle = space.targets["first"].register_hook(lambda gradient: 0 * gradient)
    space.targets["out"].register_hook(lambda gradient: None)
    found = found_by(model, space, x)[1]
    assert not found["first"].any()
    assert found["out"].any()
    handle.remove()
    space.solve()
    assert found_by(model, space, x)[1]["first"].any()


class Weighted(nn.Linear):
    """Of a family that solves in a way of its own."""


class WeightedTargets(LinearTargets):
    """The first rows count for little."""

    def solve(self, x, targets):
        weights = torch.linspace(0.1, 1.0, len(x), dtype=x.dtype).unsqueeze(1)
        a = weights * torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
        t = weights * targets * self.unit
        w = torch.linalg.solve(a.T @ a + 0.1 * torch.eye(a.shape[1], dtype=x.dtype), a.T @ t)
        values = self.pack(w)
        return values, self.apply(x, *values)


register_layer(Weighted, WeightedTargets)


def test_a_family_with_a_solve_of_its_own_has_the_gradient_of_that_solve():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Weighted(4, 2)).double()
    x = torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, x, TargetSpaceConfig(cascade_gradient=False))
    arrived, found = found_by(model, space, x)
    target = space.targets["2"].detach().requires_grad_()
    values = space.layers[1].solve(inputs_of(space)["2"], target)[0]
    (expected,) = torch.autograd.grad(values, target, arrived["2"])
    assert relative(found["2"], expected) < 1e-12
