"""Subclasses of recurrent layers, cells and attention whose own forward calls that of PyTorch."""

import copy

import pytest
import torch
from torch import nn

from tests.support.middles import EXACT, batch, net
from ts_lightning import TargetSpace


def around(kind, factor=2.0):
    """A subclass that takes one argument more, as libraries do for the lengths of sequences."""

    class Own(kind):
        def forward(self, *inputs, scale=factor):
            found = super().forward(*inputs)
            return (scale * found[0], *found[1:]) if isinstance(found, tuple) else scale * found

    return Own


class Between:
    """A forward of a class beside PyTorch's, which calls it by the order of resolution."""

    def forward(self, x, hx=None):
        return super().forward(x, hx=hx)


class Resolved(Between, nn.LSTM):
    pass


def steps(cell, h):
    state = None
    for x in h.view(-1, 3, 2).unbind(1):
        state = cell(x) if state is None else cell(x, state)
    return (state[0] if isinstance(state, tuple) else state).repeat(1, 3)


def sequence(layer, h):
    return layer(h.view(-1, 3, 2))[0].flatten(1)


def attended(layer, h):
    return layer(*[h.view(-1, 3, 2)] * 3)[0].flatten(1)


KINDS = {
    "RNN": (nn.RNN, {"batch_first": True}, sequence),
    "LSTM": (nn.LSTM, {"batch_first": True}, sequence),
    "GRU": (nn.GRU, {"batch_first": True}, sequence),
    "RNNCell": (nn.RNNCell, {}, steps),
    "LSTMCell": (nn.LSTMCell, {}, steps),
    "GRUCell": (nn.GRUCell, {}, steps),
    "attention": (nn.MultiheadAttention, {"batch_first": True}, attended),
}


def solved(kind, name, factor, beside=lambda layer, h: 0.0):
    """Weights and gradients of a model with a layer of this class."""
    _, options, call = KINDS[name]
    model = net(
        lambda m, h: factor * call(m.layer, h) + beside(m.layer, h), layer=kind(2, 1 if "att" in name else 2, **options)
    )
    space = TargetSpace(model, batch(), EXACT)
    assert space.left == []
    model(batch(8, seed=2)).square().sum().backward()
    space.pullback()
    return list(model.parameters()), [target.grad for target in space.targets.values()]


@pytest.mark.parametrize("name", KINDS)
def test_a_forward_around_that_of_pytorch_is_solved_as_it_is(name):
    """The layer stayed in weight space: "a subclass with a forward of its own"."""
    kind = KINDS[name][0]
    factor = 1.0 if "Cell" in name else 2.0  # which would scale a cell's state at every step
    torch.testing.assert_close(solved(around(kind, factor), name, 1.0), solved(kind, name, factor))


def test_a_forward_of_a_class_between():
    torch.testing.assert_close(solved(Resolved, "LSTM", 1.0), solved(nn.LSTM, "LSTM", 1.0))


def test_a_copy_that_forward_makes_has_the_solved_weights():
    def copied(layer, h):
        with torch.no_grad():
            return sequence(copy.deepcopy(layer), torch.tanh(h.flip(1)))

    same = around(nn.LSTM, 1.0)
    torch.testing.assert_close(solved(same, "LSTM", 1.0, copied), solved(nn.LSTM, "LSTM", 1.0, copied))


def test_pytorch_s_own_classes_are_as_before():
    before = {kind: vars(kind)["forward"] for kind, *_ in KINDS.values()}
    for name, (kind, *_) in KINDS.items():
        if "Cell" not in name:
            solved(around(kind), name, 1.0)
    with pytest.raises(ZeroDivisionError):
        TargetSpace(net(lambda m, h: sequence(m.layer, h) / (1 // 0), layer=around(nn.GRU)(2, 2)), batch())
    assert {kind: vars(kind)["forward"] for kind in before} == before


class Other(nn.GRU):
    """Calls no forward of PyTorch's."""

    def forward(self, x):
        return x @ self.weight_ih_l0.sum(0).diag()


class Both(nn.LSTM):
    """Uses a weight beside the call."""

    def forward(self, x):
        out, state = super().forward(x)
        return out * self.weight_hh_l0.norm(), state


@pytest.mark.parametrize(
    ("make", "call", "reason"),
    [
        (lambda: Other(2, 2), lambda layer, h: layer(h.view(-1, 3, 2)).flatten(1), "used by sum"),
        (lambda: around(nn.LSTM)(2, 2), lambda layer, h: h, "not called in the reference forward"),
    ],
)
def test_one_that_does_not_call_it_stays_and_is_named(make, call, reason):
    space = TargetSpace(net(lambda m, h: call(m.layer, h), layer=make()), batch())
    assert [(name, why) for name, _, why in space.left] == [("2.layer", reason)]


def test_a_weight_used_beside_the_call_has_its_solved_value():
    plain = solved(nn.LSTM, "LSTM", 1.0, lambda layer, h: 0.0)
    assert len(plain[1]) == 3
    model = net(lambda m, h: m.layer(h.view(-1, 3, 2))[0].flatten(1), layer=Both(2, 2, batch_first=True))
    twin = net(
        lambda m, h: m.layer(h.view(-1, 3, 2))[0].flatten(1) * m.layer.weight_hh_l0.norm(),
        layer=nn.LSTM(2, 2, batch_first=True),
    )
    twin.load_state_dict(model.state_dict())
    targets = []
    for one in (model, twin):
        space = TargetSpace(one, batch(), EXACT)
        one(batch(8, seed=2)).square().sum().backward()
        space.pullback()
        targets.append([target.grad for target in space.targets.values()])
    torch.testing.assert_close(*targets)
