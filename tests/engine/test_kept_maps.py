"""Weights and gradients between two untanglings, by the maps that the last one left."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import relative
from tests.support.untangling import CASES, Products, inputs_of, made, move, pulled_in_parts, solved
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError, register_layer
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.linear import LinearTargets


def normal_equations(layer, x, target, change):
    """The weights that a recurrent layer has for targets ``target + change`` and the inputs that ``target`` gives."""
    solved = layer.chosen(x)
    t = target.reshape(-1, target.shape[-1])
    a = layer.matrix(solved, layer.states(solved, t.view(*layer.places(solved), t.shape[-1]))[0])
    wanted = layer.unit * (t + change.reshape(t.shape))
    w = torch.zeros(a.shape[1], t.shape[1], dtype=a.dtype)
    for inputs, outputs in layer.blocks:
        part = a[:, inputs]
        r = layer.solver.ridge
        w[inputs, outputs] = torch.linalg.solve(
            part.T @ part + r * torch.eye(part.shape[1]).to(a), part.T @ wanted[:, outputs]
        )
    return layer.pack(w)


@pytest.mark.parametrize("case", CASES)
def test_kept_weights_are_linear_in_targets_with_the_inputs_of_the_untangling(case):
    _, space, _ = made(case, 3)
    generator = torch.Generator().manual_seed(1)
    move(space, generator, 0.3)
    space.cascade.untangling.end_period()
    space.solve()
    inputs, before = inputs_of(space), {name: t.detach().clone() for name, t in space.targets.items()}
    for _ in range(2):
        move(space, generator)
        space.solve()
        assert space.cascade.solution.kept
    for layer in space.layers:
        x, target = inputs[layer.name], space.targets[layer.name].detach()
        with torch.no_grad():
            if hasattr(layer, "blocks"):
                expected = normal_equations(layer, x, before[layer.name], target - before[layer.name])
                expected = torch.cat([value.flatten() for value in expected])
            else:
                # in full, from the inputs of then; against the literal computation in test_exact_*.py
                expected = torch.cat([value.flatten() for value in layer.solve(x, target)[0]])
        found = torch.cat([p.detach().flatten() for p in layer.parameters])
        assert relative(found, expected) < 1e-10, layer.name


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_between_untanglings_is_that_of_the_whole_map_at_the_last_one(case):
    model, space, x = made(case, 50)
    generator = torch.Generator().manual_seed(1)
    start = {name: target.detach().clone() for name, target in space.targets.items()}
    move(space, generator, 0.3)
    space.solve()
    assert space.cascade.solution.kept
    functional.cross_entropy(model(x), torch.arange(len(x)) % 2).backward()
    arrived = [(p, p.grad.clone()) for p in solved(space) if p.grad is not None]
    space.pullback()
    assert space.cascade.outside.modules() == []  # the pull-back leaves the solution alone
    found = {name: torch.zeros_like(t) if t.grad is None else t.grad.clone() for name, t in space.targets.items()}
    way = {name: torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in start.items()}
    values = {}
    for steps in (-2, -1, 1, 2):
        with torch.no_grad():
            for name, target in space.targets.items():
                target.copy_(start[name] + 1e-5 * steps * way[name])
        space.cascade.untangling.end_period()
        space.solve()
        assert not space.cascade.solution.kept
        values[steps] = sum(float((p.detach() * g).sum()) for p, g in arrived)
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / 12e-5
    predicted = sum(float((found[name] * way[name]).sum()) for name in start)
    size = math.sqrt(sum(float(gradient.square().sum()) for gradient in found.values()))
    assert size > 1e-6
    assert abs(slope - predicted) <= 1e-6 * max(size, 1e-3)


@pytest.mark.parametrize("case", ["dense", "conv", "lstm", "attention"])
def test_gradients_of_several_passes_within_a_period_are_all_pulled_back(case):
    model, space, x = made(case, 50)
    move(space, torch.Generator().manual_seed(1))
    space.solve()
    totals = pulled_in_parts(model, space, x)
    assert totals[0].keys() == totals[1].keys() == space.targets.keys()
    for name, expected in totals[0].items():
        torch.testing.assert_close(totals[1][name], expected, rtol=1e-9, atol=1e-12)


def test_layers_of_one_shape_are_one_product():
    _, space, _ = made("alike", 50)
    generator = torch.Generator().manual_seed(1)
    move(space, generator, 0.3)
    space.solve()
    move(space, generator)
    with Products() as products:
        space.solve()
    assert products.found == {(1, 2, 20): 1, (1, 5, 20): 1, (4, 5, 20): 1}  # out, first, and the four alike


def test_layers_around_given_weights_keep_their_offset():
    _, space, _ = made("dense", 3)
    generator = torch.Generator().manual_seed(1)
    space.adopt_weights()
    inputs = inputs_of(space)
    for _ in range(2):
        move(space, generator)
        space.solve()
        assert space.cascade.solution.kept
    for layer in space.layers:
        with torch.no_grad():
            expected = layer.solve(inputs[layer.name], space.targets[layer.name])[0]
        for found, value in zip(layer.parameters, expected, strict=True):
            assert relative(found.detach(), value) < 1e-10


def test_targets_that_are_not_finite_are_reported_between_untanglings():
    _, space, _ = made("dense", 50)
    with torch.no_grad():
        space.targets["hidden.1"][0, 0] = torch.nan
    with pytest.raises(TargetSpaceError, match=r"layer 'hidden\.1': its targets hold a NaN"):
        space.solve()


@pytest.mark.parametrize("untangle", [1, 50])
def test_hooks_on_targets_change_their_gradients(untangle):
    found = []
    for factor in (1, 3):
        model, space, x = made("dense", untangle)
        space.solve()
        space.targets["hidden.1"].register_hook(lambda gradient, factor=factor: factor * gradient)
        model(x).square().sum().backward()
        space.pullback()
        found.append({name: target.grad for name, target in space.targets.items()})
    assert space.cascade.solution.kept == (untangle > 1)
    for name, gradient in found[0].items():
        assert torch.equal(found[1][name], (3 if name == "hidden.1" else 1) * gradient)


def test_a_family_that_does_not_say_how_weights_follow_is_refused_before_training():
    class Own(nn.Linear):
        pass

    class Family(LinearTargets):
        kept_targets = TargetLayer.kept_targets

    register_layer(Own, Family)
    with pytest.raises(TargetSpaceError, match=r"layer '0'.*untangle=1"):
        TargetSpace(nn.Sequential(Own(3, 2)), torch.randn(5, 3), TargetSpaceConfig(untangle=2))
