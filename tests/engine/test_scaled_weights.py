"""Weights that a forward multiplies with a constant before a function applies them."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.exactness import check_model, close, gradients, random_targets
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError

F64 = torch.float64


class Block(nn.Module):
    """A weight that ``run(block, x)`` scales and applies to an input (..., 4), with an output (..., 4)."""

    def __init__(self, run, shape=(4, 4)):
        super().__init__()
        self.run, self.gain = run, 0.3
        self.weight = nn.Parameter(torch.randn(shape, dtype=F64))
        self.bias = nn.Parameter(torch.zeros(4, dtype=F64))
        self.trained = nn.Parameter(torch.rand(4, dtype=F64) + 0.5)
        self.frozen = nn.Parameter(torch.rand(4, 1, dtype=F64) + 0.5, requires_grad=False)
        self.register_buffer("scale", torch.tensor(0.4, dtype=F64))
        self.register_buffer("gains", torch.rand(4, 1, dtype=F64) + 0.5)
        self.register_buffer("full", torch.rand(4, 4, dtype=F64) + 0.5)
        self.register_buffer("mask", torch.ones(4, 4, dtype=F64).tril())
        self.apart = torch.rand(4, dtype=F64) + 0.5  # which no one knows as constant

    def forward(self, x):
        return self.run(self, x)


def linear(weight):
    return lambda b, x: functional.linear(x, weight(b), b.bias)


def convolved(weight):
    return lambda b, x: functional.conv1d(x.unsqueeze(-2), weight(b), padding=1).mean(1)


BLOCKS = {
    "a number": linear(lambda b: b.weight * 0.3),
    "from the left": linear(lambda b: 0.3 * b.weight),
    "divided": linear(lambda b: b.weight / math.sqrt(8)),
    "negative": linear(lambda b: -b.weight),
    "one after the other": linear(lambda b: -(b.weight * b.gain) / b.scale * 2),
    "a buffer of one number": linear(lambda b: torch.mul(b.weight, b.scale)),
    "a buffer first": linear(lambda b: b.scale * b.weight),
    "for every output": linear(lambda b: b.weight * b.gains),
    "for every input": linear(lambda b: b.weight / b.gains.squeeze(1)),
    "a frozen parameter": linear(lambda b: b.weight * b.frozen),
    "for every entry": linear(lambda b: b.weight * b.full),
    "transposed": lambda b, x: x @ (b.weight.t() * b.gains),
    "transposed behind": lambda b, x: x @ (b.weight * b.full).T,
    "made new": linear(lambda b: b.weight * torch.tensor(0.3, dtype=F64)),
    "einsum": lambda b, x: torch.einsum("...i,oi->...o", x, b.weight * b.gains),
}
WITHOUT_BIAS = {"transposed", "transposed behind", "einsum"}
CONVOLUTIONS = {
    "convolution": convolved(lambda b: b.weight * 0.3),
    "convolution, for every output": convolved(lambda b: b.weight * b.gains.unsqueeze(-1)),
    "transposed convolution": lambda b, x: functional.conv_transpose1d(
        x.unsqueeze(-2), b.weight.transpose(0, 1) * b.gains.view(1, 4, 1), padding=1
    ).mean(1),
}


def network(name):
    torch.manual_seed(0)
    block = Block(BLOCKS[name]) if name in BLOCKS else Block(CONVOLUTIONS[name], (4, 1, 3))
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), block, nn.Tanh(), nn.Linear(4, 2)).double()


def given(count):
    return torch.randn(count, 3, dtype=F64, generator=torch.Generator().manual_seed(count))


ALL = [*BLOCKS, *CONVOLUTIONS]


@pytest.mark.parametrize(
    "settings", [{}, {"reference": ReferenceConfig(rows=12)}, {"method": "ocu"}], ids=["scu", "rows", "ocu"]
)
@pytest.mark.parametrize("name", ALL)
def test_gradients_predict_finite_differences(name, settings):
    space = check_model(network(name), given(20), given(7), torch.Generator().manual_seed(0), **settings)
    assert list(space.targets) == ["0", "2", "4"]


@pytest.mark.parametrize("name", ALL)
def test_a_start_from_the_weights_keeps_the_function(name):
    model = network(name)
    before = model(given(7)).detach()
    TargetSpace(model, given(40), TargetSpaceConfig(init="weights"))
    assert close(model(given(7)), before, 1e-8)


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in WITHOUT_BIAS])
def test_the_weight_as_it_is_applied_is_that_of_a_layer_without_a_factor(name):
    model, plain = network(name), network("a number")
    plain[2] = nn.Linear(4, 4, dtype=F64)
    plain.load_state_dict({n: p for n, p in model.state_dict().items() if n in plain.state_dict()})
    settings = TargetSpaceConfig(ridge=0.3, step_scale=1.0)
    spaces = [TargetSpace(net, given(20), settings) for net in (model, plain)]
    for space in spaces:
        random_targets(space, torch.Generator().manual_seed(1))
    assert close(model(given(7)), plain(given(7)))
    for net, space in zip((model, plain), spaces, strict=True):
        net(given(7)).square().sum().backward()
        space.pullback()
    assert all(close(spaces[0].targets[n].grad, target.grad) for n, target in spaces[1].targets.items())


@pytest.mark.parametrize("name", ["for every output", "convolution", "einsum"])
@pytest.mark.parametrize("settings", [{"untangle": 3}, {"cascade_gradient": False}], ids=["untangle", "own"])
def test_other_settings_train_and_go_on_to_the_last_bit(name, settings):
    """A checkpoint in mid-training, also between two untanglings, gives the same weights as going on."""

    def step(model, space, optimizer):
        optimizer.zero_grad()
        model(given(16)).square().mean().backward()
        space.pullback()
        optimizer.step()
        space.solve()

    def trained(steps, state=None):
        model = network(name)
        if state is not None:
            model.load_state_dict(state[0])
        space = TargetSpace(model, given(20), TargetSpaceConfig(**settings), state=state and state[1])
        solved = {id(p) for layer in space.layers for p in layer.parameters}
        rest = [p for p in model.parameters() if id(p) not in solved and p.requires_grad]
        optimizer = torch.optim.SGD([*space.targets.values(), *rest], 0.1)
        for _ in range(steps):
            step(model, space, optimizer)
        return model, space

    whole, _ = trained(4)
    half, space = trained(2)
    again, _ = trained(2, (half.state_dict(), space.state_dict()))
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


@pytest.mark.parametrize("scaled", [lambda w, n: w / n, lambda w, n: n * w * 0.7, lambda w, n: w / 0.7 / n])
def test_whole_numbers_in_a_buffer_scale_in_the_precision_of_the_weight(scaled):
    model = network("a number")
    model[2].register_buffer("count", torch.tensor(3))
    model[2].run = linear(lambda b: scaled(b.weight, b.count))
    settings = TargetSpaceConfig(ridge=0.3, ridge_scale="absolute", step_scale=1.0)
    space = TargetSpace(model, given(20), settings)
    random_targets(space, torch.Generator().manual_seed(0))
    a = torch.cat([model[1](model[0](given(20))), torch.ones(20, 1, dtype=F64)], 1)
    w = torch.linalg.solve(a.T @ a + 0.3 * torch.eye(5, dtype=F64), a.T @ space.targets["2"].detach())
    assert close(scaled(model[2].weight, model[2].count), w[:-1].T, 1e-12)


USED = "used by mul"
LEFT = {
    "by a trained gain": (linear(lambda b: b.weight * b.trained), USED),
    "by what a trained gain gives": (linear(lambda b: b.weight * b.trained.exp().mean()), "used by mul"),
    "by what a layer gives": (lambda b, x: functional.linear(x, b.weight * x.mean()), USED),
    "by the data": (lambda b, x: functional.linear(x, b.weight * x[:4].detach()), USED),
    "by a tensor of its own": (linear(lambda b: b.weight * b.apart), USED),
    "by a mask": (linear(lambda b: b.weight * b.mask), "multiplied by a mask with zeros"),
    "by its size": (linear(lambda b: b.weight / b.weight.norm()), "used by norm, div"),
    "by two factors": (lambda b, x: (x @ (b.weight * 0.5)).tanh() @ (b.weight * 0.4), "applied in several ways"),
    "at one of two uses": (lambda b, x: (x @ (b.weight * 0.5)).tanh() @ b.weight, "applied in several ways"),
    "in place": (linear(lambda b: b.weight.clone().mul_(2)), "used by clone"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_left(case):
    run, reason = LEFT[case]
    model = network("a number")
    model[2].run = run
    space = TargetSpace(model, given(20))
    assert space.left == [("2", "Block", reason)]
    assert list(space.targets) == ["0", "4"]


def test_a_factor_that_has_become_zero_is_an_error():
    model = network("for every output")
    space = TargetSpace(model, given(20))
    model[2].gains[1] = 0
    with pytest.raises(TargetSpaceError, match=r"layer '2': its weight is multiplied by zeros.*Add '2' to exclude"):
        space.solve()


def test_a_gain_behind_a_weight_that_is_multiplied_elsewhere_is_no_weight():
    """An input times a parameter of its shape is an input, not a weight of that layer."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.weight = nn.Parameter(torch.rand(20, 4)), nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return (x * self.gate[: len(x)]) @ self.weight

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Gated(), nn.Linear(4, 2)).double()
    space = TargetSpace(model, given(20))
    assert list(space.targets) == ["0", "2", "3"]
    random_targets(space, torch.Generator().manual_seed(0))
    assert gradients(space, model, lambda net: net(given(20)).square().sum())["2.gate"].abs().sum() > 0


def by_number(block, value):
    block.gain = value


def in_place(block, value):
    block.scale.fill_(value)


def by_another_buffer(block, value):
    block.scale = torch.tensor(value, dtype=F64)


def for_one_output(block, value):
    block.gains[1] = value


CHANGES = {
    "a number": (linear(lambda b: b.weight * b.gain), by_number),
    "in place": (linear(lambda b: b.weight * b.scale), in_place),
    "computed": (linear(lambda b: b.weight / (2 * b.scale)), in_place),
    "another buffer": (linear(lambda b: b.weight * b.scale), by_another_buffer),
    "one output": (linear(lambda b: b.weight * b.gains), for_one_output),
    "convolution": (convolved(lambda b: b.weight * b.scale), in_place),
}


def said_of_factors(name, changes, untangle):
    """What is said in eight solves, ahead of each of which the factor may change."""
    run, change = CHANGES[name]
    torch.manual_seed(0)
    block = Block(run, (4, 1, 3) if name == "convolution" else (4, 4))
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), block, nn.Tanh(), nn.Linear(4, 2)).double()
    change(block, 0.5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        space = TargetSpace(model, given(20), TargetSpaceConfig(untangle=untangle))
        for step in range(8):
            if changes:
                change(block, 0.6 + 0.1 * step)
            space.solve()
    return [str(one.message) for one in said if "untangle" in str(one.message)]


@pytest.mark.parametrize("untangle", [3, "auto"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_factor_that_changes_within_a_period_is_said_once(name, untangle):
    """In the solves between, the weight was divided by the old one, and applied with the new one, without a word."""
    (message,) = said_of_factors(name, True, untangle)
    assert message.startswith("What the weight of layer '2' is multiplied with has changed within a period")
    assert "add '2' to exclude" in message


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize(("changes", "untangle"), [(False, 3), (False, "auto"), (True, 1)])
def test_nothing_is_said_of_a_factor_that_stays_or_is_read_at_every_solve(name, changes, untangle):
    assert not said_of_factors(name, changes, untangle)
