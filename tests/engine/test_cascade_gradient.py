"""Without the gradient through later layers' inputs: each layer's targets have the gradient of their own solve."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import relative
from tests.support.untangling import (
    CASES,
    Products,
    found_by,
    inputs_of,
    made,
    move,
    pulled_in_parts,
    solved,
    step,
    weights,
)
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError, register_layer
from ts_lightning.layers.linear import LinearTargets


@pytest.mark.parametrize("untangle", [1, 50])
@pytest.mark.parametrize("case", CASES)
def test_a_target_has_the_gradient_of_its_own_layers_solve(case, untangle):
    model, space, x = made(case, untangle, cascade_gradient=False)
    generator = torch.Generator().manual_seed(1)
    if untangle == 1:
        move(space, generator, 0.3)
        space.solve()
    # what the last untangling saw
    inputs, targets = inputs_of(space), {name: t.detach().clone() for name, t in space.targets.items()}
    if untangle > 1:
        move(space, generator, 0.3)
        space.solve()
    assert space.cascade.solution.kept == (untangle > 1)
    arrived, found = found_by(model, space, x)
    assert space.cascade.outside.modules() == []
    for layer in space.layers:
        target = targets[layer.name]
        way = torch.randn(target.shape, generator=generator, dtype=target.dtype)
        values = {}
        for steps in (-2, -1, 1, 2):
            with torch.no_grad():
                solved_for = layer.solve(inputs[layer.name], target + 1e-5 * steps * way)[0]
            pairs = zip(solved_for, arrived[layer.name], strict=True)
            values[steps] = sum(float((value * gradient).sum()) for value, gradient in pairs)
        slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / 12e-5
        predicted = float((found[layer.name] * way).sum())
        size = max(float(found[layer.name].norm()), 1e-4)
        assert abs(slope - predicted) <= 1e-6 * size, layer.name
    assert math.sqrt(sum(float(gradient.square().sum()) for gradient in found.values())) > 1e-6


@pytest.mark.parametrize("case", ["dense", "conv", "lstm", "attention", "alike", "a stranger's"])
def test_solves_are_those_with_the_whole_gradient_at_the_same_ridge(case):
    for untangle in (1, 3):
        moved = []
        for whole in (True, False):
            _, space, _ = made(case, untangle, cascade_gradient=whole, ridge=0.5)
            generator = torch.Generator().manual_seed(1)
            for _ in range(4):
                move(space, generator)
                space.solve()
            moved.append(torch.cat([p.detach().flatten() for p in solved(space)]))
        assert relative(moved[1], moved[0]) < 1e-12


def test_what_is_trained_beside_targets_has_no_share_from_the_reference_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(20, 3, dtype=torch.float64)
    for whole in (True, False):
        space = TargetSpace(model, x, TargetSpaceConfig(cascade_gradient=whole))
        model.zero_grad()
        functional.cross_entropy(model(x), torch.arange(20) % 2).backward()
        before = model[1].weight.grad.clone()
        space.pullback()
        assert torch.equal(before, model[1].weight.grad) != whole
        space.release()


def test_gradients_of_layers_of_one_shape_are_one_product():
    model, space, x = made("alike", 50, cascade_gradient=False)
    move(space, torch.Generator().manual_seed(1))
    space.solve()
    model(x).square().mean().backward()
    with Products() as products:
        space.pullback()
    assert products.found == {(1, 20, 4): 1, (4, 20, 6): 1, (1, 20, 6): 1}  # first, the four alike, out
    assert not any(value.requires_grad for _, value in space.cascade.solution.pairs)
    assert space.targets["aside"].grad is None  # of the same stack, and in no loss


@pytest.mark.parametrize("untangle", [1, 3])
def test_gradients_of_several_passes_add_up(untangle):
    model, space, x = made("alike", untangle, cascade_gradient=False)
    move(space, torch.Generator().manual_seed(1))
    space.solve()
    totals = pulled_in_parts(model, space, x)
    assert totals[0].keys() == totals[1].keys() == space.targets.keys() - {"aside"}
    for name, expected in totals[0].items():
        torch.testing.assert_close(totals[1][name], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_in_half_precision(dtype):
    model, space, x = made("alike", 3, dtype, cascade_gradient=False)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    losses = [step(model, space, optimizer, x) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(t.grad.dtype == t.dtype for t in space.targets.values() if t.grad is not None)


def test_around_given_weights():
    model, space, x = made("alike", 3, cascade_gradient=False)
    before = {name: [v.clone() for v in values] for name, values in weights(space).items()}
    space.adopt_weights()
    for name, values in weights(space).items():
        assert all(relative(a, b) < 1e-12 for a, b in zip(values, before[name], strict=True))
    optimizer = torch.optim.SGD(space.parameters(), lr=0.01)
    losses = [step(model, space, optimizer, x) for _ in range(6)]
    assert losses == sorted(losses, reverse=True)


def test_a_frozen_layer_keeps_its_weights_and_one_that_thaws_is_trained_on():
    model, space, x = made("alike", 3, cascade_gradient=False)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.01)
    model.inner[1].requires_grad_(False)
    held = model.inner[1].weight.clone()
    for _ in range(4):
        step(model, space, optimizer, x)
    assert torch.equal(held, model.inner[1].weight)
    model.inner[1].requires_grad_(True)
    for _ in range(4):
        step(model, space, optimizer, x)
    assert not torch.equal(held, model.inner[1].weight)


class Wrapped:
    """A layer's input that is no tensor."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __getattr__(self, name):
        if name == "detach":
            raise AttributeError(name)
        return getattr(self.tensor, name)


class OfWrapped(nn.Linear):
    pass


class WrappedTargets(LinearTargets):
    @staticmethod
    def forward(layers, visit, input):
        return visit(layers[0], Wrapped(input))

    def apply(self, x, weight, bias=None):
        return super().apply(x.tensor, weight, bias)


register_layer(OfWrapped, WrappedTargets)


def test_an_input_that_cannot_be_taken_as_a_constant_is_refused():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), OfWrapped(4, 2))
    with pytest.raises(TargetSpaceError, match=r"layer '2' is given a Wrapped, which has no method detach\(\)"):
        TargetSpace(model, torch.randn(20, 3), TargetSpaceConfig(cascade_gradient=False))


def test_settings():
    with pytest.raises(ValueError, match="cascade_gradient"):
        TargetSpaceConfig(cascade_gradient="no")
    with pytest.raises(ValueError, match="cuda_graphs"):
        TargetSpaceConfig(cascade_gradient=False, cuda_graphs=True)
    assert TargetSpaceConfig.from_dict({}).cascade_gradient
