# ruff: noqa: NPY002 (the generator that users' older code draws from)
"""The reference pass leaves the module as it found it, and draws the same numbers every time."""

import copy
import random

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.middles import EXACT, batch, net, steps
from ts_lightning import TargetSpace
from ts_lightning.engine.running.untraced import Untraced


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
