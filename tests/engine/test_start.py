"""Where training starts: projected targets, normalised targets, and the model's own weights."""

import copy
import re
import warnings
from typing import get_args

import pytest
import torch
from torch import nn

from benchmarks.literal import Literal, matrix
from tests.support.exactness import close
from tests.support.nets import Conv, Dense
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig
from ts_lightning.config import RidgeScaleName
from ts_lightning.layers.linear import LinearTargets

SCALES = get_args(RidgeScaleName)


def dense(**options):
    return Dense(3, 6, 3, 2, **options), (20, 3)


def conv(**options):
    return Conv(2, 2, 4, 3, kernel_size=3, padding=1, groups=2, **options), (6, 2, 5, 4)


def build(make, seed=0, **options):
    torch.manual_seed(seed)
    model, shape = make(**options)
    return model.double(), torch.randn(shape, dtype=torch.float64)


def chosen(space):
    return {layer.name: layer.rows for layer in space.layers if layer.rows is not None}


def achieved(model, space, x):
    """What each layer really produces on the reference batch, where it has targets."""
    found, layers = {}, {layer.name: layer for layer in space.layers}
    for name, layer in layers.items():
        layer.module.register_forward_hook(
            lambda module, args, z, name=name: found.update({name: layers[name].select(z).clone()})
        )
    with torch.no_grad():
        model(x)
    for layer in layers.values():
        layer.module._forward_hooks.clear()
    return found


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("method", "rows"), [("scu", "all"), ("scu", 15), ("ocu", "all")])
@pytest.mark.parametrize("make", [dense, conv])
def test_projection(make, method, rows, scale):
    model, x = build(make)
    reference = ReferenceConfig(rows=rows)
    config = TargetSpaceConfig(ridge=0.2, ridge_scale=scale, method=method, step_scale=1.0, reference=reference)
    space = TargetSpace(model, x, config)
    with torch.no_grad():
        for target in space.targets.values():
            target.normal_()
    space.solve()
    literal = Literal(model, space.targets, ridge=0.2, scale=scale, method=method, rows=chosen(space))
    space.project()
    literal.project(x)
    for name, target in space.targets.items():
        assert close(target.data, literal.targets[name]), name
    for name, value in literal.weights(x).items():
        assert close(model.get_parameter(name), value), name


@pytest.mark.parametrize("make", [dense, conv])
def test_a_projected_start_can_be_achieved(make):
    model, x = build(make)
    space = TargetSpace(model, x, TargetSpaceConfig.paper(0.1, init_std=1.0))
    literal = Literal(model, space.targets, ridge=0.1)

    def visit(name, module, x):
        a, t = matrix(x, module), space.targets[name].data
        rows = (t if t.dim() == 2 else t.movedim(1, -1)).reshape(a.shape[1], len(a), -1).transpose(0, 1)
        # the targets lie in the span of the layer's inputs, as random ones do not
        for value, near in ((rows, True), (torch.randn_like(rows), False)):
            off = float((value - a @ torch.linalg.lstsq(a, value).solution).norm() / value.norm())
            assert (off < 1e-9) == near, (name, off)
        return literal.solve_layer(name, module, x)[2]

    with torch.no_grad():
        literal.walk((x,), visit)


@pytest.mark.parametrize("rows", ["all", 15])
@pytest.mark.parametrize("make", [dense, conv])
def test_residuals_compare_targets_with_what_the_model_does(make, rows):
    model, x = build(make)
    space = TargetSpace(model, x, TargetSpaceConfig(ridge=0.5, reference=ReferenceConfig(rows=rows)))
    residuals = space.residuals()
    for name, value in achieved(model, space, x).items():
        target = space.units[name] * space.targets[name].data
        assert residuals[name] == pytest.approx(float((value - target).norm() / target.norm()), rel=1e-9)


@pytest.mark.parametrize("std", [0.5, None])
@pytest.mark.parametrize("act", [nn.Tanh(), nn.ReLU()])
def test_a_normalised_start_gives_every_layer_the_same_spread_and_the_last_a_tenth(act, std):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 30), act]
    for _ in range(8):
        layers += [nn.Linear(30, 30), act]
    model = nn.Sequential(*layers, nn.Linear(30, 4))
    x = torch.randn(200, 6)
    space = TargetSpace(model, x, TargetSpaceConfig(init="normalised", init_std=std))
    *hidden, last = (float(value.std()) for value in achieved(model, space, x).values())
    for spread in hidden:
        assert spread == pytest.approx(std or LinearTargets.normalised_std, rel=0.15)
    assert last == pytest.approx(0.1 * (std or LinearTargets.normalised_std), rel=0.15)


@pytest.mark.parametrize("init", ["projected", "normalised"])
@pytest.mark.parametrize("make", [dense, conv])
def test_the_start_follows_the_seed_and_leaves_it_alone(make, init):
    starts = []
    for seed in (1, 1, 2):
        model, x = build(make)
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        space = TargetSpace(model, x, TargetSpaceConfig(init=init))
        assert torch.equal(torch.get_rng_state(), state)
        starts.append(next(iter(space.targets.values())).detach())
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("method", ["scu", "ocu"])
@pytest.mark.parametrize("make", [dense, conv])
def test_given_weights_are_kept_where_the_inputs_span_them(make, method, bias, scale):
    model, x = build(make, bias=bias, norm=True)
    if make is conv:
        x = x.repeat(3, 1, 1, 1) + torch.randn(18, 2, 5, 4, dtype=torch.float64)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    config = TargetSpaceConfig(ridge=0.1, ridge_scale=scale, method=method, init="weights")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TargetSpace(model, x, config)
    for name, value in model.named_parameters():
        # in OCU layers after the first receive targets, which overshoot their outputs, but the weights are kept
        assert close(value, before[name], 1e-9), name


def too_few(rows, images):
    """A convolution of 19 unknowns per group, from 12 sampled rows or from 20 rows that padding makes dependent."""
    torch.manual_seed(0)
    model = Conv(2, 2, 4, 3, kernel_size=(3, 3), padding=1).double()
    x = torch.zeros(images, 2, 5, 4, dtype=torch.float64)
    x[:, :, 1:3] = torch.randn(images, 2, 2, 4, dtype=torch.float64)
    return model, x, ReferenceConfig(rows=rows)


@pytest.mark.parametrize(("rows", "images"), [(12, 6), ("all", 1)])
def test_given_weights_are_kept_whatever_the_rows_span(rows, images):
    model, x, reference = too_few(rows, images)
    before = copy.deepcopy(model.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TargetSpace(model, x, TargetSpaceConfig(ridge=0.1, init="weights", reference=reference))
    for name, value in model.state_dict().items():
        assert close(value, before[name], 1e-12), name


@pytest.mark.parametrize(("rows", "images"), [(12, 6), ("all", 1)])
def test_a_refresh_says_what_its_rows_do_not_span(rows, images):
    model, x, reference = too_few(rows, images)
    space = TargetSpace(model, x, TargetSpaceConfig(ridge=0.1, reference=reference))
    with torch.no_grad():
        x = x.roll(1, 0) * 0.5
        before = model(x)
    with pytest.warns(UserWarning, match=r"do not span the inputs of 'first' \(\d+ of 19\)") as caught:
        space.refresh(x)
    assert len(caught) == 1
    with torch.no_grad():
        change = float((model(x) - before).abs().max())
    said = re.search(r"largest change of any output on it is (\S+)\.", str(caught[0].message))
    assert float(said[1]) == pytest.approx(change, rel=1e-2, abs=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_fewer_samples_than_inputs_keep_the_function_everywhere(scale):
    torch.manual_seed(0)
    model = Dense(9, 12, 2, 3).double()
    x, others = torch.randn(7, 9, dtype=torch.float64), torch.randn(30, 9, dtype=torch.float64)
    before = model(others).detach()
    TargetSpace(model, x, TargetSpaceConfig(ridge=0.1, ridge_scale=scale, init="weights"))
    assert close(model(others).detach(), before, 1e-9)


@pytest.mark.parametrize("scale", SCALES)
def test_a_refresh_with_fewer_samples_than_inputs_keeps_the_function_on_the_samples(scale):
    torch.manual_seed(0)
    model = Dense(9, 12, 2, 3).double()
    x = torch.randn(7, 9, dtype=torch.float64)
    space = TargetSpace(model, torch.randn(50, 9, dtype=torch.float64), TargetSpaceConfig(ridge=0.1, ridge_scale=scale))
    before = model(x).detach()
    with pytest.warns(UserWarning, match=r"'hidden.0' \(7 of 10\), 'hidden.1' \(7 of 13\), 'readout' \(7 of 13\)"):
        space.refresh(x)
    assert close(model(x).detach(), before, 1e-9)
