"""Untangling at a period: the maps kept in between, their gradients, the period's length, and going on within it."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.exactness import relative
from tests.support.nets import Conv, Dense
from ts_lightning import ReferenceConfig, TargetSpace, TargetSpaceConfig, TargetSpaceError, register_layer
from ts_lightning.engine.untangling import Untangling
from ts_lightning.layers.base import TargetLayer
from ts_lightning.layers.linear import LinearTargets

CONFIG = TargetSpaceConfig(step_scale=3.0)


class Recurrent(nn.Module):
    def __init__(self, cell, **options):
        super().__init__()
        self.cell, self.readout = cell(3, 4, batch_first=True, **options), nn.Linear(4 * (1 + cell_is_two(options)), 2)

    def forward(self, x):
        return self.readout(self.cell(x)[0][:, -1])


def cell_is_two(options):
    return bool(options.get("bidirectional"))


class Attending(nn.Module):
    """Of a sequence to itself, and of learned queries to it."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(2, 4))
        self.to_itself, self.to_queries = (nn.MultiheadAttention(4, 2, batch_first=True) for _ in range(2))
        self.readout = nn.Linear(8, 2)

    def forward(self, x):
        x = self.to_itself(x, x, x)[0]
        return self.readout(self.to_queries(self.queries.expand(len(x), -1, -1), x, x)[0].flatten(1))


class Applied(nn.Module):
    """A weight (in, out) that a function applies."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 4) / 2), nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Pairs(nn.Module):
    """Products of an input with its tanh."""

    def __init__(self):
        super().__init__()
        self.pair, self.readout = nn.Bilinear(3, 3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.readout(torch.tanh(self.pair(x, torch.tanh(x))))


class Alike(nn.Module):
    """Dense layers of one shape, the last of which is in no loss."""

    def __init__(self, bias=True):
        super().__init__()
        self.first = nn.Linear(3, 5, bias=bias)
        self.inner = nn.ModuleList([nn.Linear(5, 5, bias=bias) for _ in range(3)])
        self.out = nn.Linear(5, 2)
        self.aside = nn.Linear(5, 5, bias=bias)

    def forward(self, x):
        h = self.first(x).tanh()
        for layer in self.inner:
            h = layer(h).tanh()
        self.aside(h)
        return self.out(h)


class Twice(nn.Module):
    """A layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.readout = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.readout(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Doubled(nn.Linear):
    """A stranger's layer, which applies twice its weight."""

    def forward(self, x):
        return functional.linear(x, 2 * self.weight, self.bias)


class DoubledTargets(LinearTargets):
    def pack(self, w):
        weight, bias = super().pack(w)
        return [weight / 2, bias]

    def unpack(self, values):
        return super().unpack([2 * values[0], values[1]])

    def apply(self, x, weight, bias):
        return super().apply(x, 2 * weight, bias)


register_layer(Doubled, DoubledTargets)


def transposed(**options):
    return nn.Sequential(
        nn.ConvTranspose2d(2, 2, 3, **options), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )


def rows(value):
    return replace(CONFIG, reference=ReferenceConfig(rows=value))


#: model, shape of a sample, samples of the reference batch, config
CASES = {
    "dense": (lambda: Dense(3, 5, 3), (3,), 20, CONFIG),
    "dense without bias": (lambda: Dense(3, 5, 3, bias=False), (3,), 20, CONFIG),
    "dense, dual": (lambda: Dense(12, 11, 3), (12,), 7, CONFIG),
    "dense, rows": (lambda: Dense(3, 5, 3), (3,), 20, rows(9)),
    "dense, optimistic": (lambda: Dense(3, 5, 3), (3,), 20, replace(CONFIG, method="ocu")),
    **{
        f"dense, {scale}, {size}": (lambda: Dense(8, 7, 2), (8,), size, replace(CONFIG, ridge_scale=scale))
        for scale in ("absolute", "mean", "feature")
        for size in (20, 5)
    },
    "conv": (lambda: Conv(inner=4), (2, 6, 6), 6, rows(60)),
    "conv, dual": (lambda: Conv(inner=4), (2, 6, 6), 6, rows(10)),
    "conv, groups": (lambda: Conv(inner=4, kernel_size=3, groups=2), (2, 6, 6), 6, rows(60)),
    "conv, all rows": (lambda: Conv(inner=4, kernel_size=3, padding=1), (2, 6, 6), 6, rows("all")),
    "conv, all rows, groups": (lambda: Conv(inner=4, kernel_size=3, groups=2), (2, 6, 6), 6, rows("all")),
    "conv, all rows, dual": (lambda: Conv(inner=4, kernel_size=5), (2, 6, 6), 1, rows("all")),
    **{
        name: (build, (steps, 3), size, replace(rows(kept), ridge_scale="absolute"))
        for name, build, steps, size, kept in (
            ("rnn", lambda: Recurrent(nn.RNN), 6, 20, "auto"),
            ("lstm", lambda: Recurrent(nn.LSTM, num_layers=2), 6, 20, "auto"),
            ("lstm, rows", lambda: Recurrent(nn.LSTM, bidirectional=True), 6, 20, 60),
            ("gru", lambda: Recurrent(nn.GRU), 6, 20, "auto"),
            ("gru, dual", lambda: Recurrent(nn.GRU), 3, 2, "auto"),
            ("gru without bias", lambda: Recurrent(nn.GRU, bias=False), 6, 20, "auto"),
        )
    },
    "attention": (Attending, (5, 4), 12, CONFIG),
    "transposed": (lambda: transposed(stride=2), (2, 4, 4), 6, rows(60)),
    "transposed, all rows": (lambda: transposed(groups=2, padding=1), (2, 4, 4), 6, rows("all")),
    "bilinear": (Pairs, (3,), 20, CONFIG),
    "a function's": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), Applied(), nn.Tanh(), nn.Linear(4, 2)),
        (3,),
        20,
        CONFIG,
    ),
    "alike": (Alike, (3,), 20, CONFIG),
    "alike without bias": (lambda: Alike(bias=False), (3,), 20, CONFIG),
    "alike, dual": (Alike, (3,), 4, CONFIG),
    "wide": (lambda: Dense(3, 190, 190), (3,), 20, CONFIG),
    "used twice": (Twice, (3,), 20, CONFIG),
    "a stranger's": (lambda: nn.Sequential(Doubled(3, 5), nn.Tanh(), Doubled(5, 2)), (3,), 20, CONFIG),
}
for name in ("conv", "conv, dual"):
    CASES[name] = (lambda: Conv(inner=4, kernel_size=3), *CASES[name][1:])


def made(case, untangle, dtype=torch.float64, seed=0, **changes):
    build, shape, size, config = CASES[case]
    torch.manual_seed(seed)
    model = build().to(dtype)
    x = torch.randn(size, *shape, dtype=dtype)
    return model, TargetSpace(model, x, replace(config, untangle=untangle, **changes)), x


def move(space, generator, by=0.1):
    with torch.no_grad():
        for target in space.targets.values():
            noise = torch.randn(target.shape, generator=generator, dtype=target.dtype)
            target.add_(by * noise)


def step(model, space, optimizer, x):
    loss = functional.cross_entropy(model(x), torch.arange(len(x)) % 2)
    optimizer.zero_grad()
    loss.backward()
    space.pullback()
    optimizer.step()
    space.solve()
    return float(loss.detach())


def weights(space):
    return {layer.name: [p.detach().clone() for p in layer.parameters] for layer in space.layers}


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


def inputs_of(space):
    """Each layer's input in a reference pass with the weights of now."""
    seen = {}

    def visit(layer, x):
        seen[layer.name] = x
        return layer.solve(x, space.targets[layer.name])

    with torch.no_grad():
        space.cascade.reference.walk(visit, None, set())
    return seen


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
def test_a_gradient_between_untanglings_is_that_of_the_kept_map(case):
    model, space, x = made(case, 50)
    generator = torch.Generator().manual_seed(1)
    move(space, generator, 0.3)
    space.solve()
    assert space.cascade.solution.kept

    def loss():
        return functional.cross_entropy(model(x), torch.arange(len(x)) % 2)

    loss().backward()
    space.pullback()
    assert space.cascade.overwritten() == []  # the pull-back leaves the solution alone
    found = {name: torch.zeros_like(t) if t.grad is None else t.grad.clone() for name, t in space.targets.items()}
    start = {name: target.detach().clone() for name, target in space.targets.items()}
    way = {name: torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in start.items()}
    values = {}
    for steps in (-2, -1, 1, 2):
        with torch.no_grad():
            for name, target in space.targets.items():
                target.copy_(start[name] + 1e-5 * steps * way[name])
        space.solve()
        assert space.cascade.solution.kept
        values[steps] = float(loss().detach())
    slope = (8 * (values[1] - values[-1]) - (values[2] - values[-2])) / 12e-5
    predicted = sum(float((found[name] * way[name]).sum()) for name in start)
    size = math.sqrt(sum(float(gradient.square().sum()) for gradient in found.values()))
    assert size > 1e-6
    assert abs(slope - predicted) <= 1e-6 * max(size, 1e-3)


def test_layers_of_one_shape_are_one_product():
    _, space, _ = made("alike", 50)
    generator = torch.Generator().manual_seed(1)
    move(space, generator, 0.3)
    space.solve()
    products = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.mm):
                products.append(tuple(args[0].shape))
            return function(*args, **(kwargs or {}))

    move(space, generator)
    with Products():
        space.solve()
    assert sorted(products) == [(1, 2, 20), (1, 5, 20), (4, 5, 20)]  # out, first, and the four alike


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


def test_other_parameters_get_their_share_at_untanglings_only():
    torch.manual_seed(0)
    model = Dense(3, 5, 2, norm=True).double()
    x = torch.randn(20, 3, dtype=torch.float64)
    space = TargetSpace(model, x, replace(CONFIG, untangle=2))
    norm = model.norms[0].weight
    direct = []
    for kept in (False, True, False):
        assert space.cascade.solution.kept == kept
        norm.grad = None
        loss = functional.cross_entropy(model(x), torch.arange(20) % 2)
        direct.append(torch.autograd.grad(loss, norm, retain_graph=True)[0])
        loss.backward()
        space.pullback()
        assert torch.equal(norm.grad, direct[-1]) == kept
        move(space, torch.Generator().manual_seed(1))
        space.solve()


@pytest.mark.parametrize(
    ("period", "jump", "then"),
    [(1, 0.2, 1), (8, 0.16, 4), (8, 0.15, 8), (8, 0.05, 8), (8, 0.04, 16), (16, 0.0, 16), (4, math.nan, 4)],
)
def test_the_period_follows_the_jump(period, jump, then):
    controller = Untangling("auto", [])
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
