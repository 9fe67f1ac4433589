"""What belongs to a parameter whose parts are layers: its flag, its gradient, its values, its place in optimizers."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.support.exactness import close
from tests.support.parts import Cut, given, pair
from ts_lightning import TargetSpace, TargetSpaceConfig
from ts_lightning.layers.part import Part, Region, is_partition

CONFIG = TargetSpaceConfig(init="normalised")


def spaces(optimizer=torch.optim.Adam, config=CONFIG, **options):
    """A space of parts and one of modules, each with its optimizer."""
    found = []
    for model in pair():
        space = TargetSpace(model, given(30), config)
        own = optimizer(model.parameters(), lr=0.05, **options)
        space.substitute(own)
        found.append((model, space, own))
    return found


def step(model, space, optimizer, loss=lambda z: z.square().sum(), change=None):
    def closure():
        optimizer.zero_grad()
        value = loss(model(given(9, seed=2)))
        value.backward()
        if change is not None:
            change(model)
        space.pullback()
        return value

    if isinstance(optimizer, torch.optim.LBFGS):

        def solving():
            space.solve()
            return closure()

        optimizer.step(solving)
    else:
        closure()
        optimizer.step()
    space.solve()


def assert_alike(found, tolerance=1e-10):
    (one, *_), (other, *_) = found
    assert all(close(a, b, tolerance) for a, b in zip(one.weights(), other.weights(), strict=True))


def whole_and_parts(model, change):
    """Apply a change to the weights, the biases and the readout of either model."""
    with torch.no_grad():
        for parameter in model.parameters():
            change(parameter)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.AdamW, {"weight_decay": 0.1}),
        (torch.optim.LBFGS, {"max_iter": 2}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_with_any_optimizer(optimizer, options):
    found = spaces(optimizer, **options)
    for _ in range(3):
        for one in found:
            step(*one)
    assert_alike(found, 1e-8)


def test_targets_take_the_place_of_the_whole():
    (model, space, optimizer), _ = spaces()
    names = {id(target): name for name, target in space.targets.items()}
    assert [names[id(p)] for group in optimizer.param_groups for p in group["params"]] == [
        "w.0",
        "w.1",
        "w.2",
        "readout",
    ]
    assert not any(p is model.w for p in space.parameters())


CHANGES = {
    "scaled": lambda p: p.mul_(0.9),
    "through data": lambda p: p.data.mul_(0.9),
    "other data": lambda p: setattr(p, "data", p.data * 0.9),
}


@pytest.mark.filterwarnings("ignore:The weights of")
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_written_are_kept_and_solved_around(change):
    found = spaces()
    for model, space, optimizer in found:
        step(model, space, optimizer)
        whole_and_parts(model, CHANGES[change])
        step(model, space, optimizer)
        assert all(layer.anchor is not None for layer in space.layers)
        step(model, space, optimizer)
    assert_alike(found)


@pytest.mark.filterwarnings("ignore:The weights of")
def test_one_part_that_is_written():
    found = spaces()
    for model, space, optimizer in found:
        step(model, space, optimizer)
        with torch.no_grad():
            part = model.w[1].weight if isinstance(model.w, nn.ModuleList) else model.cut(model.w)[1]
            part.mul_(0.9)
        step(model, space, optimizer)
        step(model, space, optimizer)
    assert {layer.name for layer in found[0][1].layers if layer.anchor is not None} == {"w.0", "w.1", "w.2"}
    assert found[0][0].w.isfinite().all()


def test_a_frozen_whole_is_held_and_thaws():
    found = spaces()
    for model, space, optimizer in found:
        step(model, space, optimizer)
        chosen = [p for p in model.parameters() if p is not model.readout.weight and p is not model.readout.bias]
        before = model.weights()
        for parameter in chosen:
            parameter.requires_grad_(False)
        step(model, space, optimizer)
        step(model, space, optimizer)
        assert all(torch.equal(a, b) for a, b in zip(model.weights()[:-2], before[:-2], strict=True))
        assert not torch.equal(model.weights()[-2], before[-2])
        for parameter in chosen:
            parameter.requires_grad_(True)
        step(model, space, optimizer)
        assert not torch.equal(model.weights()[0], before[0])
    assert_alike(found)


def test_frozen_ahead_it_is_no_layer():
    model, _ = pair()
    model.w.requires_grad_(False)
    assert [*TargetSpace(model, given(30)).targets] == ["readout"]


def test_toggled_targets_keep_their_parts():
    found = spaces()
    for model, space, optimizer in found:
        step(model, space, optimizer)
        before = model.weights()
        targets = [target for name, target in space.targets.items() if name != "readout"]
        for target in targets:
            target.requires_grad_(False)
        space.follow()
        step(model, space, optimizer)
        assert all(close(a, b, 1e-12) for a, b in zip(model.weights()[:6], before[:6], strict=True))
        for target in targets:
            target.requires_grad_(True)
        space.follow()
        step(model, space, optimizer)
    assert_alike(found)


def test_one_frozen_target_stays_and_the_others_move():
    (model, space, optimizer), _ = spaces()
    before = {name: target.detach().clone() for name, target in space.targets.items()}
    space.targets["w.1"].requires_grad_(False)
    space.follow()
    step(model, space, optimizer)
    moved = {name for name, target in space.targets.items() if not torch.equal(target, before[name])}
    assert moved == {"w.0", "w.2", "readout"}
    assert space.cascade.trained.held == set()


@pytest.mark.parametrize("way", ["zero_grad", "one by one", "clipped", "attached"])
def test_gradients_of_an_attached_loop(way):
    found = spaces()
    for model, space, optimizer in found:
        space.attach(optimizer)
        for n in range(3):
            if way == "one by one":
                for target in space.parameters():
                    target.grad = None
            else:
                optimizer.zero_grad()
            model(given(9, seed=2)).square().sum().backward()
            if way == "one by one" and n == 1:  # a second backward pass, behind a reading
                assert space.targets["w.1"].grad is not None
                space.targets["w.1"].grad = None
                model(given(9, seed=3)).square().sum().backward()
            if way == "clipped":
                torch.nn.utils.clip_grad_norm_(space.parameters(), 0.3)
            optimizer.step()
    assert_alike(found)


def test_gradients_of_a_whole_that_are_changed():
    found = spaces()
    for one in found:
        step(*one, change=lambda model: torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1))
        step(*one, change=lambda model: [p.grad.mul_(2) for p in model.parameters()])
    assert_alike(found)


@pytest.mark.parametrize(
    "config", [CONFIG, TargetSpaceConfig(init="weights"), TargetSpaceConfig(cascade_gradient=False)], ids=str
)
def test_a_state_goes_on_bit_for_bit(config):
    model, _ = pair()
    space = TargetSpace(model, given(30), config)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.05)
    for _ in range(2):
        step(model, space, optimizer)
    state, moments = pickle.loads(pickle.dumps(space.state_dict())), copy.deepcopy(optimizer.state_dict())
    weights = copy.deepcopy(model.state_dict())
    for _ in range(2):
        step(model, space, optimizer)
    expected = model.state_dict()
    again, _ = pair()
    again.load_state_dict(weights)
    other = TargetSpace(again, given(30), config, state=state)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.05)
    optimizer.load_state_dict(moments)
    other.solve()
    for _ in range(2):
        step(again, other, optimizer)
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


def test_a_state_of_a_time_when_the_parameter_stayed_is_gone_on_with():
    model, _ = pair()
    state = TargetSpace(model, given(30), TargetSpaceConfig(exclude=["w"])).state_dict()
    state["left"] = [["", "Cut", "used by chunk"]]
    space = TargetSpace(model, given(30), state=state)
    assert [*space.targets] == ["readout"]
    assert any(p is model.w for p in space.parameters())


def test_names_mean_all_parts():
    model, _ = pair()
    assert [*TargetSpace(model, given(30), TargetSpaceConfig(layers=["w"])).targets] == ["w.0", "w.1", "w.2"]
    assert [*TargetSpace(pair()[0], given(30), TargetSpaceConfig(exclude=["w"])).targets] == ["readout"]


def test_the_line_and_the_inspection_count_the_whole():
    (_, space, _), _ = spaces()
    assert "2 of 2 layers (100.0 % of the trainable parameters)" in space.describe()
    assert space.left == []


def test_loaded_weights_are_given():
    model, _ = pair()
    before = model(given(7)).detach()
    TargetSpace(model, given(30), TargetSpaceConfig(), loaded=[model.w])
    assert close(model(given(7)), before, 1e-10)


def test_a_released_space_can_be_copied():
    (model, space, _), _ = spaces()
    space.release()
    one, other = copy.deepcopy((model, space))
    assert isinstance(one, Cut)
    assert all(layer.wholes[0] is one.w for layer in other.layers if layer.name != "readout")
    other.solve()
    assert torch.equal(one.w, model.w)


def test_regions_make_a_whole_once():
    whole = torch.zeros(4, 3)
    halves = [Region(0, (2, 3), (3, 1)), Region(6, (2, 3), (3, 1))]
    assert is_partition(whole, halves) is True
    assert is_partition(whole, halves[:1]) is False
    assert is_partition(whole, [*halves, Region(0, (3,), (1,))]) is None


def test_a_part_has_the_gradient_of_its_whole():
    whole = nn.Parameter(torch.zeros(4, 3))
    one, other = Part.of(whole, [Region(0, (2, 3), (3, 1)), Region(6, (2, 3), (3, 1))])
    assert one.grad is None
    (whole.sum() + whole[2:].sum()).backward()
    assert torch.equal(other.grad, torch.full((2, 3), 2.0))
    assert other.grad is other.grad
    one.grad = None
    assert one.grad is None
    assert torch.equal(whole.grad, torch.cat([torch.zeros(2, 3), torch.full((2, 3), 2.0)]))
    whole.sum().backward()
    assert torch.equal(one.grad, torch.ones(2, 3))
    one.grad = torch.full((2, 3), 5.0)
    assert float(whole.grad[0, 0]) == 5
    one.grad = other.grad = None
    assert whole.grad is None
    other.grad = torch.ones(2, 3)
    assert one.grad is not None
    assert float(whole.grad.sum()) == 6
