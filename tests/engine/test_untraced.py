# ruff: noqa: NPY002 (the generator that users' older code draws from)
"""The reference pass leaves the module as it found it, draws the same numbers every time, and runs what really runs."""

import copy
import functools
import random
import types

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError
from ts_lightning.engine.untraced import Untraced

EXACT = TargetSpaceConfig(ridge=0.1, step_scale=1.0)


class Middle(nn.Module):
    """``run(module, h)`` between two dense layers, on (samples, 6)."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run, self.calls = run, 0
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, h):
        self.calls += 1
        return self.run(self, h)


def net(run, **parts):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), Middle(run, **parts), nn.Tanh(), nn.Linear(6, 2)).double()


def batch(samples=20, seed=1):
    return torch.randn(samples, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def steps(model, x, count=2):
    """Some steps on other samples; the space."""
    space = TargetSpace(model, x, EXACT)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.01)
    for n in range(count):
        optimizer.zero_grad()
        model(batch(8, seed=n + 2)).square().sum().backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return space


class Bank:
    """An object of the user's that is no module."""

    def __init__(self):
        self.rows, self.count = [], 0

    def add(self, h):
        self.rows.append(h)
        self.count += 1


def replace_buffer(m, h):
    m.bank = torch.cat([h.detach(), m.bank])[:30]
    return h


def write_buffer(m, h):
    m.bank[: len(h)] = h.detach()
    m.pointer += 1
    return h + m.bank.mean()


def keep_state(m, h):
    m.state = (h.detach(), m.calls) if m.state is None else (m.state[0].mean(0) + h.detach(), m.calls)
    return h + m.state[0]


def append(m, h):
    m.seen.append(h)
    m.cache["last"], m.names = h, m.names | {m.calls}
    m.nested["more"]["calls"] += 1
    return h


def new_attribute(m, h):
    m.last = h
    return h


def in_place_cache(m, h):
    m.cache["rows"][: len(h)] = h.detach()
    return h * m.cache["rows"][: len(h)].mean()


def remember(m, h):
    m.memory.add(h)
    return h


def draw(m, h):
    return h + torch.rand(h.shape, generator=m.generator, dtype=h.dtype)


def buffered(run, **buffers):
    model = net(run)
    for name, value in buffers.items():
        model[2].register_buffer(name, value)
    return model


WRITERS = {
    "buffer, replaced": lambda: buffered(replace_buffer, bank=torch.zeros(0, 6, dtype=torch.float64)),
    "buffer, in place": lambda: buffered(write_buffer, bank=torch.ones(30, 6).double(), pointer=torch.tensor(0)),
    "recurrent state": lambda: net(keep_state, state=None),
    "containers": lambda: net(append, seen=[], cache={}, names=set(), nested={"more": {"calls": 0}}),
    "new attribute": lambda: net(new_attribute),
    "cache, in place": lambda: net(in_place_cache, cache={"rows": torch.ones(30, 6).double()}),
    "object": lambda: net(remember, memory=Bank()),
    "spectral norm": lambda: net(lambda m, h: m.e(h), e=nn.utils.spectral_norm(nn.Linear(6, 6))),
    "spectral norm, parametrised": lambda: net(
        lambda m, h: m.e(h), e=nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))
    ),
    "generator": lambda: net(draw, generator=torch.Generator().manual_seed(3)),
    "teacher, hidden": lambda: net(lambda m, h: h + m.teachers[0](h).detach(), teachers=[nn.BatchNorm1d(6).double()]),
}


def held(value, depth=0):
    """What an object holds, in built-in types and lists of numbers."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, torch.Generator):
        return value.get_state().tolist()
    if isinstance(value, nn.Module):
        parts = {**vars(value), **value._buffers, **value._modules}
        return {name: held(part, depth + 1) for name, part in parts.items() if not name.startswith("_")}
    if isinstance(value, dict):
        return {name: held(part, depth + 1) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [held(part, depth + 1) for part in value]
    if isinstance(value, Bank):
        return held(vars(value))
    return value if isinstance(value, (int, float, set, bool, type(None))) else None


@pytest.mark.parametrize("case", WRITERS)
def test_what_forward_writes_is_undone(case):
    model, x = WRITERS[case](), batch()
    model(batch(8))
    before, buffers = held(model), list(model.state_dict())
    weights = {id(p) for p in model.parameters()}
    space = TargetSpace(model, x, EXACT)
    space.solve()
    space.project()
    space.residuals()
    after = held(model)
    for layer in ("0", "4"):
        before.pop(layer), after.pop(layer)  # which are solved
    assert after == before
    assert list(model.state_dict()) == buffers
    assert {id(p) for p in model.parameters()} == weights


@pytest.mark.parametrize("case", WRITERS)
def test_a_training_forward_may_write_to_the_same_between_solve_and_pull_back(case):
    model = WRITERS[case]()
    other = copy.deepcopy(model)
    steps(model, batch())
    # and what it writes is what training alone writes
    for n in range(2):
        other(batch(8, seed=n + 2))
    assert model[2].calls == other[2].calls == 2
    if case == "containers":
        assert len(model[2].seen) == 2
        assert not any(row.shape == (20, 6) for row in model[2].seen)


def test_a_state_of_the_training_batchs_shape_does_not_reach_the_pass():
    model = net(lambda m, h: keep_rows(m, h), state=None)
    steps(model, batch())
    assert model[2].state.shape == (8, 6)


def keep_rows(m, h):
    m.state = h.detach() if m.state is None else m.state + h.detach()
    return h + m.state


NOISE = {
    "torch": lambda m, h: h + torch.randn_like(h),
    "functional dropout": lambda m, h: functional.dropout(h, 0.3),
    "distribution": lambda m, h: torch.distributions.Normal(h, torch.ones_like(h)).rsample(),
    "numpy": lambda m, h: h * numpy.random.rand(),
    "python": lambda m, h: h * random.random(),
    "generator": draw,
}


@pytest.mark.parametrize("noise", NOISE)
def test_random_numbers_are_the_same_in_every_pass(noise):
    model = net(NOISE[noise], generator=torch.Generator())
    space = TargetSpace(model, batch(), EXACT)
    weights = [p.detach().clone() for p in model.parameters()]
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    for _ in range(2):
        space.solve()
        assert all(map(torch.equal, weights, model.parameters()))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), numpy.random.get_state()[1].tolist()) == states[1:]
    model(batch(8))
    torch.manual_seed(5)
    space.solve()
    assert all(map(torch.equal, weights, model.parameters()))


def test_random_numbers_go_with_the_state():
    state, weights = None, []
    for seed in (0, 1):
        torch.manual_seed(0)
        model = net(NOISE["torch"])
        torch.manual_seed(seed)
        space = TargetSpace(model, batch(), EXACT, state=state)
        state = space.state_dict()
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(map(torch.equal, *weights))


class Collector:
    """A callable with a list."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, args, output):
        self.seen.append(output)

    def method(self, module, args, output):
        self.seen.append(output)


GLOBAL = []


def collect_globally(module, args, output):
    GLOBAL.append(output)


def collect_into(seen, module, args, output):
    seen.append(output)


def closure(seen):
    return lambda module, args, output: seen.append(output)


def hooks():
    mine, method, partial, cell = Collector(), Collector(), [], []
    GLOBAL.clear()
    yield mine, mine.seen
    yield method.method, method.seen
    yield functools.partial(collect_into, partial), partial
    yield closure(cell), cell
    yield collect_globally, GLOBAL


@pytest.mark.parametrize("name", ["0", "2", "2.e", "", "everywhere"])
def test_hooks_that_look_do_not_see_the_pass(name):
    model = net(lambda m, h: m.e(h), e=nn.Linear(6, 6))
    lists, handles = [], []
    for hook, seen in hooks():
        lists.append(seen)
        if name == "everywhere":
            handles.append(nn.modules.module.register_module_forward_hook(hook))
        else:
            model.get_submodule(name).register_forward_hook(hook)
    try:
        steps(model, batch())
    finally:
        for handle in handles:
            handle.remove()
    for seen in lists:
        assert seen
        assert all(len(output) == 8 for output in seen)


def test_backward_hooks_and_hooks_on_tensors_do_not_see_the_pull_back():
    seen = []

    def run(m, h):
        h.register_hook(lambda gradient: seen.append(("tensor", gradient)))
        h.retain_grad()
        return m.e(h)

    model = net(run, e=nn.Linear(6, 6))
    model[2].e.register_full_backward_hook(lambda module, gradients, outer: seen.append(("module", outer[0])))
    steps(model, batch())
    assert len(seen) == 4
    assert all(len(gradient) == 8 for _, gradient in seen)


ACTING = {
    "output": lambda m: m[2].e.register_forward_hook(lambda module, args, z: z.round(decimals=1)),
    "input": lambda m: m[2].e.register_forward_pre_hook(lambda module, args: (args[0] * 3,)),
    "keywords": lambda m: m[2].register_forward_pre_hook(lambda module, a, k: ((a[0] - 1,), k), with_kwargs=True),
    "in place": lambda m: m[2].e.register_forward_hook(twice),
    "patched": lambda m: setattr(m[2].e, "forward", types.MethodType(patched, m[2].e)),
    "patched, on the original": lambda m: setattr(m[2].e, "forward", functools.partial(around, m[2].e.forward)),
}


def twice(module, args, output):
    output.mul_(2)


def patched(module, h):
    return 3 * functional.linear(h, module.weight, module.bias)


def around(original, h):
    return original(h) + h


def noting(seen):
    """A hook that takes part, and writes the input of 20 samples where nothing is undone."""

    def hook(module, args, output):
        if len(output) == 20:
            seen[0], seen[1][:, : output.shape[1]] = args[0].detach().numpy(), output.detach().numpy()
        return output

    return hook


@pytest.mark.parametrize("case", ACTING)
def test_what_changes_the_result_runs_in_the_pass(case):
    """The input of the last layer in the pass is what the model gives on the reference batch."""
    model, seen = net(lambda m, h: m.e(h), e=nn.Linear(6, 6)), numpy.zeros((2, 20, 6))
    ACTING[case](model)
    model[4].register_forward_hook(noting(seen))
    space = TargetSpace(model, batch(), EXACT)
    space.solve()
    found = seen.copy()
    model(batch())
    numpy.testing.assert_allclose(found, seen, rtol=1e-9)
    assert len(space.targets) == 3


def test_a_patched_forward_without_the_bias_is_solved_without_it():
    model = net(lambda m, h: m.e(h), e=nn.Linear(6, 6))
    e = model[2].e
    e.forward = lambda h: functional.linear(h, e.weight)
    space = TargetSpace(model, batch())
    assert [len(layer.parameters) for layer in space.layers] == [2, 1, 2]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_patched_forward_of_another_kind_is_refused_by_name(kind):
    model = net(lambda m, h: m.e(h)[0], e=kind(6, 6))
    e, original = model[2].e, model[2].e.forward
    e.forward = lambda h: original(h)
    with pytest.raises(TargetSpaceError, match=r"layer '2\.e'.*set on the instance.*exclude"):
        TargetSpace(model, batch(), TargetSpaceConfig(layers=["*"]))


@pytest.mark.parametrize("bias", [True, False])
def test_a_patched_convolution(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1, bias=bias), nn.Flatten(), nn.Linear(48, 2)).double()
    conv, original = model[0], model[0].forward
    x = torch.randn(9, 1, 4, 4, dtype=torch.float64)
    plain = TargetSpace(model, x, EXACT)
    wanted = [p.detach().clone() for p in model.parameters()]
    conv.forward = lambda x: original(x)
    space = TargetSpace(model, x, EXACT, state=plain.state_dict())
    assert all(map(torch.equal, wanted, model.parameters()))
    assert list(space.targets) == ["0", "2"]


def checkpointed(use_reentrant):
    return lambda m, h: checkpoint(m.e, h, use_reentrant=use_reentrant)


def in_sequence(use_reentrant):
    return lambda m, h: checkpoint_sequential(m.e, 2, h, use_reentrant=use_reentrant)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("how", [checkpointed, in_sequence])
def test_gradient_checkpointing_changes_nothing(how, use_reentrant):
    weights = []
    for run in (how(use_reentrant), lambda m, h: m.e(h)):
        model = net(run, e=nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)))
        steps(model, batch())
        weights.append(list(model.parameters()))
    for found, wanted in zip(*weights, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


class Forces(nn.Module):
    """An energy and its derivative by the positions."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)).double()

    def forward(self, x):
        x = x.requires_grad_()
        energy = self.net(x)
        (forces,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        return energy, forces


def test_forces_train_with_exact_gradients():
    torch.manual_seed(0)
    model = Forces()
    space = TargetSpace(model, batch(), EXACT)

    def loss():
        energy, forces = model(batch(8, seed=2))
        return energy.square().sum() + forces.square().sum()

    loss().backward()
    assert space.pullback()
    target = space.targets["net.0"]
    for index in ((0, 0), (7, 3)):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                target[index] += step
            space.solve()
            values.append(float(loss().detach()))
            with torch.no_grad():
                target[index] -= step
        assert target.grad[index] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


def test_a_layer_that_depends_on_derivatives_is_refused_by_name():
    class OfForces(Forces):
        def __init__(self):
            super().__init__()
            self.readout = nn.Linear(3, 2).double()

        def forward(self, x):
            return self.readout(super().forward(x)[1])

    named = TargetSpaceConfig(layers=["*"])
    with pytest.raises(TargetSpaceError, match=r"layer 'readout' receives derivatives.*exclude"):
        TargetSpace(OfForces(), batch(), named)
    space = TargetSpace(OfForces(), batch())
    assert ("readout", "nn.Linear", "behind derivatives that forward computes") in space.left
    assert "readout" not in space.targets


def test_frozen_norms_keep_their_running_statistics():
    model = net(lambda m, h: m.thawed(m.frozen(h)), frozen=nn.BatchNorm1d(6), thawed=nn.BatchNorm1d(6))
    for _ in range(3):
        model(batch(8) + 3)
    model[2].frozen.eval()
    seen = {name: numpy.zeros((2, 20, 6)) for name in ("frozen", "thawed")}
    for name, array in seen.items():
        model[2].get_submodule(name).register_forward_hook(noting(array))
    space = TargetSpace(model, batch(), EXACT)
    for mode in (True, False):  # in the latter, as in validation, nothing tells which norms are frozen
        model.train(mode)
        model[2].frozen.eval()
        space.solve()
        x, z = map(torch.from_numpy, seen["frozen"].copy())
        torch.testing.assert_close(z, model[2].frozen(x).detach())
        numpy.testing.assert_allclose(seen["thawed"][1].mean(0), 0, atol=1e-9)
    model.train()
    space.solve()
    numpy.testing.assert_allclose(seen["frozen"][1].mean(0), 0, atol=1e-9)


def test_the_guard_serves_other_runs():
    model = WRITERS["buffer, in place"]()
    before = held(model)
    with Untraced(model, seed=3)():
        first = model(batch())
    with Untraced(model, seed=3)():
        assert torch.equal(model(batch()), first)
    assert held(model) == before
    with pytest.raises(RuntimeError), Untraced(model)():
        model(torch.ones(40, 3, dtype=torch.float64))  # more rows than the bank has
    assert held(model) == before


class Tied(nn.Module):
    """A decoder by the encoder's weight, and a layer behind it."""

    def __init__(self, ahead=False):
        super().__init__()
        self.first, self.encoder, self.last = nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(3, 2)
        self.ahead = ahead  # the weight is taken before the encoder is called

    def forward(self, x):
        self.size = self.encoder.weight.norm()  # on which nothing depends
        h = torch.tanh(self.first(x))
        if self.ahead:
            return self.encoder(self.last(h @ self.encoder.weight.t() @ self.encoder.weight).repeat(1, 2)[:, :3])
        return self.last(torch.tanh(functional.linear(torch.tanh(self.encoder(h)), self.encoder.weight.t())))


def test_tied_weights_train_with_exact_gradients():
    torch.manual_seed(0)
    model = Tied().double()
    space = TargetSpace(model, batch(), EXACT)
    weights = [p.detach().clone() for p in model.parameters()]
    space.solve()
    assert all(map(torch.equal, weights, model.parameters()))

    def loss():
        return model(batch(8, seed=2)).square().sum() + model.last.weight.sum()

    loss().backward()
    space.pullback()
    for name, target in space.targets.items():
        along, values = torch.randn_like(target), []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                target.add_(along, alpha=step)
            space.solve()
            values.append(float(loss().detach()))
            with torch.no_grad():
                target.sub_(along, alpha=step)
        expected = float((target.grad * along).sum())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-5, abs=1e-7), name


def test_a_weight_that_is_used_before_its_layer_is_refused_with_both_names():
    with pytest.raises(TargetSpaceError, match=r"'last' depends on the weight of layer 'encoder'.*exclude"):
        TargetSpace(Tied(ahead=True).double(), batch(), EXACT)
