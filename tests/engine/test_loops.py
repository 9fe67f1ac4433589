"""Loops: layers whose later inputs follow from what they gave before are solved from all uses at once."""

import copy

import pytest
import torch

from tests.support.exactness import check_differences, close, gradients, random_targets, relative
from tests.support.loops import LOOPS, Cells, Modules, Translator
from ts_lightning import ReferenceConfig, TargetAdam, TargetSpace, TargetSpaceConfig
from ts_lightning.layers.loop import loop_of

KINDS = ("RNN", "LSTM", "GRU")


def made(case, samples=40, **settings):
    torch.manual_seed(0)
    model, x = LOOPS[case][0]().double(), torch.randn(samples, 4, 3, dtype=torch.float64)
    return model, x, TargetSpace(model, x, TargetSpaceConfig(**settings))


def weights(space):
    return torch.cat([p.detach().flatten() for layer in space.layers for p in layer.parameters])


def square(model, x):
    return model(x).square().sum()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_cells_in_a_loop_are_the_recurrent_module(kind, bias):
    """Of one cell above the other, and a readout at every step: weights and gradients, from the same targets."""
    torch.manual_seed(0)
    x, fresh = torch.randn(40, 5, 3, dtype=torch.float64), torch.randn(20, 7, 3, dtype=torch.float64)
    config = TargetSpaceConfig(reference=ReferenceConfig(rows="all"), init="normalised")
    spaces = []
    for cls in (Modules, Cells):
        model = cls(kind, bias).double()
        spaces.append((model, TargetSpace(model, x, config)))
    (modules, whole), (cells, steps) = spaces
    assert steps.left == []
    names = {"first.l0": "first", "second.l0": "second", "readout": "readout"}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, target in whole.targets.items():
            target.copy_(torch.randn(target.shape, generator=generator, dtype=target.dtype))
            steps.targets[names[name]].copy_(turned(target, steps.targets[names[name]]))
            assert whole.units[name] == steps.units[names[name]]
    whole.solve()
    steps.solve()
    assert relative(cells(fresh), modules(fresh)) < 1e-11
    for model, space in spaces:
        square(model, fresh).backward()
        space.pullback()
    for name, target in whole.targets.items():
        found = steps.targets[names[name]]
        assert relative(found.grad, turned(target.grad, found)) < 1e-9


def turned(target, like):
    """Targets (samples, steps, ...) in the order of uses."""
    return target.movedim(1, 0).reshape(like.shape)


@pytest.mark.parametrize("case", LOOPS)
def test_all_is_solved_and_gradients_predict_differences(case):
    model, _, space = made(case, ridge=0.3, step_scale=1.0)
    assert space.left == []
    assert {layer.name for layer in space.layers if loop_of(layer) is not None} == LOOPS[case][1]
    random_targets(space, torch.Generator().manual_seed(0))
    fresh = torch.randn(30, 4, 3, dtype=torch.float64)

    def loss(model):
        return square(model, fresh)

    if case == "truncated":  # its gradient is not that of its loss, in weight space either
        found = gradients(space, model, loss)
        assert all(float(gradient.norm()) > 0 for gradient in found.values())
        return
    check_differences(space, model, loss, gradients(space, model, loss), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", LOOPS)
def test_a_start_from_weights_keeps_the_function(case):
    torch.manual_seed(0)
    model, x = LOOPS[case][0]().double(), torch.randn(40, 4, 3, dtype=torch.float64)
    fresh = torch.randn(30, 4, 3, dtype=torch.float64)
    before = model(fresh)
    space = TargetSpace(model, x, TargetSpaceConfig(init="weights"))
    assert relative(model(fresh), before) < 1e-12
    space.refresh(torch.randn(40, 4, 3, dtype=torch.float64))
    assert relative(model(fresh), before) < 1e-9


@pytest.mark.parametrize("case", LOOPS)
@pytest.mark.parametrize("settings", [{"untangle": 3}, {"cascade_gradient": False}, {"untangle": "auto"}])
def test_kept_maps_give_the_weights_of_a_solve(case, settings):
    model, _, space = made(case, **settings)
    before = weights(space)
    space.solve()
    assert relative(weights(space), before) < 1e-10
    assert max(space.residuals().values()) < 1
    square(model, torch.randn(30, 4, 3, dtype=torch.float64)).backward()
    space.pullback()
    assert all(float(target.grad.norm()) > 0 for target in space.targets.values())


@pytest.mark.parametrize("case", LOOPS)
def test_a_start_and_a_step_move_all_weights(case):
    model, x, space = made(case)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = TargetAdam(space.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        square(model, x).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert bool(((parameter - before[name]).abs().sum(0) > 0).all()), name


@pytest.mark.parametrize("case", ["cell of two layers", "LSTM cells", "translator", "convolutional cell"])
def test_a_state_goes_on_bit_for_bit(case):
    model, x, space = made(case)

    def train(model, space, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            square(model, x).backward()
            space.pullback()
            optimizer.step()
            space.solve()

    optimizer = torch.optim.SGD(space.parameters(), lr=0.01)
    train(model, space, optimizer, 2)
    space.adopt_weights()
    train(model, space, optimizer, 1)
    other = LOOPS[case][0]().double()
    other.load_state_dict(model.state_dict())
    resumed = TargetSpace(other, x, state=copy.deepcopy(space.state_dict()))
    assert [loop_of(layer) is None for layer in resumed.layers] == [loop_of(layer) is None for layer in space.layers]
    train(model, space, optimizer, 2)
    train(other, resumed, torch.optim.SGD(resumed.parameters(), lr=0.01), 2)
    assert torch.equal(weights(resumed), weights(space))


@pytest.mark.parametrize("case", ["cell of one layer", "cell of two layers", "GRU cells", "translator"])
def test_weights_that_are_written_and_frozen_are_kept(case):
    model, x, space = made(case)
    name = sorted(LOOPS[case][1])[0]
    chosen = [p for layer in space.layers if layer.name == name for p in layer.parameters]
    with torch.no_grad():
        for parameter in chosen:
            parameter.mul_(1.5)
    kept = [parameter.detach().clone() for parameter in chosen]
    space.solve()
    assert all(close(parameter, before, 1e-10) for parameter, before in zip(chosen, kept, strict=True))
    for parameter in chosen:
        parameter.requires_grad_(False)
    kept = [parameter.detach().clone() for parameter in chosen]
    optimizer = torch.optim.SGD([p for p in space.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        square(model, x).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert all(torch.equal(parameter, before) for parameter, before in zip(chosen, kept, strict=True))
    for parameter in chosen:
        parameter.requires_grad_(True)
    space.solve()
    assert all(close(parameter, before, 1e-10) for parameter, before in zip(chosen, kept, strict=True))


@pytest.mark.parametrize("init", ["projected", "normalised", "weights"])
def test_every_start_can_be_solved_and_projected(init):
    _, _, space = made("translator", init=init)
    assert bool(weights(space).isfinite().all())
    space.project()
    assert bool(weights(space).isfinite().all())


def test_a_decoder_that_is_given_its_own_choice_is_one_loop():
    """Tokens that are chosen by argmax depend on the layers before, though no gradient goes there."""
    torch.manual_seed(0)
    space = TargetSpace(Translator(greedy=True), torch.randn(40, 4, 3))
    loops = {layer.name: (layer.stage, loop_of(layer)) for layer in space.layers}
    assert loops["decoder"] == loops["readout"]
    assert loops["decoder"][1].recurs
    assert loops["encoder"][0] < loops["bridge"][0] <= loops["decoder"][0]


@pytest.mark.parametrize("init", ["projected", "normalised", "weights"])
@pytest.mark.parametrize("case", ["RNN cells", "LSTM cells", "GRU by steps", "cell of one layer"])
def test_loops_in_low_precision_pass_on_its_type(case, init):
    """Targets are in float32: an LSTM took the states along them for its own, and PyTorch refused the mixture."""
    torch.manual_seed(0)
    model, x = LOOPS[case][0]().bfloat16(), torch.randn(40, 4, 3).bfloat16()
    space = TargetSpace(model, x, TargetSpaceConfig(init=init))
    square(model, x).backward()
    space.pullback()
    space.solve()
    assert all(bool(p.isfinite().all()) for p in model.parameters())
