"""One comparison for all exactness tests: engine against the literal implementation and against differences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.literal import Literal
from ts_lightning import TargetSpace, TargetSpaceConfig


def relative(found, expected):
    return float((found - expected).norm() / expected.norm().clamp_min(1e-300))


def close(found, expected, tolerance=1e-10, floor=0.0):
    """Whether two tensors agree relative to the larger of the expected norm and ``floor``."""
    found, expected = found.detach(), expected.detach()
    return float((found - expected).norm()) <= tolerance * max(float(expected.norm()), floor)


def random_targets(space, generator):
    """Targets far from what the layers can achieve, so that residuals matter in every gradient."""
    with torch.no_grad():
        for target in space.targets.values():
            target.copy_(torch.randn(target.shape, generator=generator, dtype=target.dtype))
    space.solve()


def gradients(space, model, loss):
    """The engine's gradients by name, of targets and of all parameters that are not solved."""
    for parameter in [*model.parameters(), *space.targets.values()]:
        parameter.grad = None
    loss(model).backward()
    space.pullback()
    solved = {id(p) for layer in space.layers for p in layer.wholes}
    named = {**space.targets, **{n: p for n, p in model.named_parameters() if id(p) not in solved}}
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named.items()}


def check_exact(model, reference, loss, config: TargetSpaceConfig, seed=0, tolerance=1e-10, step=1e-4):
    """Weights and every gradient equal the literal implementation's, and gradients predict finite differences."""
    model = model.double()
    config = replace(config, step_scale=1.0)  # test_step_scale.py has what another one does
    if config.init == "auto":  # which would solve around weights of an earlier space
        config = replace(config, init="normalised")
    space = TargetSpace(model, reference, config)
    generator = torch.Generator().manual_seed(seed)
    random_targets(space, generator)
    rows = {layer.name: layer.rows for layer in space.layers if layer.rows is not None}
    ridges = {layer.module_name: layer.solver.ridge for layer in space.layers}
    options = {"scale": config.ridge_scale, "method": config.method, "forget_bias": config.forget_bias}
    literal = Literal(model, space.targets, ridge=ridges, rows=rows, **options)
    solved = literal.weights(*reference)
    assert len(solved) == sum(len(layer.parameters) for layer in space.layers)
    for name, value in solved.items():
        assert close(model.get_parameter(name), value, tolerance), f"weights of {name}"
    expected = literal.gradients(reference, loss)
    found = gradients(space, model, loss)
    assert found.keys() == expected.keys()
    # a bias ahead of a norm has no influence: its gradient is rounding, measured against the largest one
    floor = 1e-3 * max(float(g.norm()) for g in expected.values())
    for name, value in expected.items():
        assert close(found[name], value, tolerance, floor), (name, relative(found[name], value))
    check_differences(space, model, loss, found, generator, step)


def check_differences(space, model, loss, found, generator, step=1e-4, tolerance=1e-6):
    """<gradient, direction> equals a fourth-order difference of the loss along a random direction, solves included."""
    variables = dict(space.targets)
    variables.update({n: p for n, p in model.named_parameters() if n in found and n not in variables})
    directions = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in variables.items()}
    directions = {n: direction.to(variables[n].device) for n, direction in directions.items()}
    start, values = {n: p.detach().clone() for n, p in variables.items()}, {}
    for steps in (-2, -1, 1, 2):
        with torch.no_grad():
            for name, parameter in variables.items():
                parameter.copy_(start[name] + steps * step * directions[name])
        space.solve()
        with torch.no_grad():
            values[steps] = float(loss(model))
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / (12 * step)
    predicted = sum(float((found[n] * d).sum()) for n, d in directions.items())
    size = sum(float(g.square().sum()) for g in found.values()) ** 0.5
    assert abs(slope - predicted) <= tolerance * max(size, 1e-3), (slope, predicted, size)


def check_each_target(space, loss, step, rel, absolute, generator=None):
    """The same for one target after the other, by central differences, of the gradients that the targets have."""
    for name, target in space.targets.items():
        along, values = torch.randn(target.shape, generator=generator, dtype=target.dtype), []
        expected = float((target.grad * along).sum())
        for change in (step, -step):
            with torch.no_grad():
                target.add_(along, alpha=change)
            space.solve()
            values.append(float(loss().detach()))
            with torch.no_grad():
                target.sub_(along, alpha=change)
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(expected, rel=rel, abs=absolute), name


def check_model(model, batch, x, generator, **settings):
    """All of a model is solved, and its gradients predict differences of a loss; returns the space."""
    space = TargetSpace(model, batch, TargetSpaceConfig(ridge=0.3, step_scale=1.0, **settings))
    assert space.left == []
    random_targets(space, generator)

    def loss(model):
        return model(x).square().sum()

    check_differences(space, model, loss, gradients(space, model, loss), generator)
    return space
