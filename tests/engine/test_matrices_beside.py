"""Modules that are layers by themselves, with a matrix of their own beside: projections, peepholes, adapters."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.support.middles import EXACT, batch, net
from ts_lightning import TargetSpace

GIVEN = replace(EXACT, init="weights")


def projected(kind, ahead=False):
    """A subclass that multiplies what comes out of PyTorch's forward by a matrix, or what goes in."""

    class Projected(kind):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.extra = nn.Parameter(torch.eye(2) + 0.3)

        def forward(self, x, *more):
            if ahead:
                return super().forward(x @ self.extra, *more)
            found = super().forward(x, *more)
            return (found[0] @ self.extra, *found[1:]) if isinstance(found, tuple) else found @ self.extra

    return Projected


class Outside(nn.Linear):
    """Keeps PyTorch's forward; the network around it applies the matrix."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.extra = nn.Parameter(torch.eye(2) + 0.3)


class Twin(nn.Module):
    """The same by two modules."""

    def __init__(self, run, layer):
        super().__init__()
        self.run, self.layer = run, layer
        self.beside = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.beside.weight.copy_((torch.eye(2) + 0.3).T)

    def forward(self, *args):
        return self.run(self, *args)


def sequence(layer, h):
    return layer(h.view(-1, 3, 2))[0].flatten(1)


def steps(cell, h):
    state = None
    for x in h.view(-1, 3, 2).unbind(1):
        state = cell(x) if state is None else cell(x, state)
    return state.repeat(1, 3)


def attended(layer, h):
    return layer(*[h.view(-1, 3, 2)] * 3)[0].flatten(1)


def outside(layer, h):
    x = layer(h.view(-1, 3, 2))
    return (layer.beside(x) if isinstance(layer, Twin) else x @ layer.extra).flatten(1)


def behind(twin, *args):
    found = twin.layer(*args)
    return (twin.beside(found[0]), *found[1:]) if isinstance(found, tuple) else twin.beside(found)


def before(twin, x):
    return twin.layer(twin.beside(x))


SEQUENCES = {"batch_first": True}
KINDS = {
    "LSTM": (lambda: projected(nn.LSTM)(2, 2, **SEQUENCES), lambda: Twin(behind, nn.LSTM(2, 2, **SEQUENCES)), sequence),
    "RNN": (lambda: projected(nn.RNN)(2, 2, **SEQUENCES), lambda: Twin(behind, nn.RNN(2, 2, **SEQUENCES)), sequence),
    "ahead": (
        lambda: projected(nn.GRU, ahead=True)(2, 2, **SEQUENCES),
        lambda: Twin(before, nn.GRU(2, 2, **SEQUENCES)),
        sequence,
    ),
    "RNNCell": (lambda: projected(nn.RNNCell)(2, 2), lambda: Twin(behind, nn.RNNCell(2, 2)), steps),
    "GRUCell": (lambda: projected(nn.GRUCell)(2, 2), lambda: Twin(behind, nn.GRUCell(2, 2)), steps),
    "attention": (
        lambda: projected(nn.MultiheadAttention)(2, 1, **SEQUENCES),
        lambda: Twin(behind, nn.MultiheadAttention(2, 1, **SEQUENCES)),
        attended,
    ),
    "outside": (lambda: Outside(2, 2), lambda: Twin(lambda twin, x: twin.layer(x), nn.Linear(2, 2)), outside),
}


def made(kind, make, **settings):
    torch.manual_seed(0)
    return TargetSpace(net(lambda m, h: KINDS[kind][2](m.layer, h), layer=make()), batch(), replace(GIVEN, **settings))


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_is_a_layer_of_its_own_name_beside_the_module(kind):
    """Both had the module's name: cells stayed in weight space, and a dense layer ended the start with an assertion."""
    norms = []
    for space in (made(kind, make) for make in KINDS[kind][:2]):
        assert space.left == []
        space.model(batch(8, seed=2)).square().sum().backward()
        space.pullback()
        norms.append(sorted(float(target.grad.norm()) for target in space.targets.values()))
    torch.testing.assert_close(*norms)


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_the_two_is_excluded_by_its_name_and_goes_on_from_a_state(kind):
    space = made(kind, KINDS[kind][0])
    names = [name for name in space.targets if name.startswith("2.layer")]
    assert "2.layer.extra" in names
    state = space.state_dict()
    space.release()
    assert list(TargetSpace(space.model, batch(), GIVEN, state=state).targets) == list(state["targets"])
    alone = made(kind, KINDS[kind][0], exclude=["2.layer.extra"])
    assert [name for name in alone.targets if name.startswith("2.layer")] == [n for n in names if n != "2.layer.extra"]
    neither = made(kind, KINDS[kind][0], exclude=["2.layer"])
    assert [name for name in neither.targets if name.startswith("2.layer")] == []


class Idle(nn.LSTM):
    """A matrix that nothing uses."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.extra = nn.Parameter(torch.ones(2, 2))


class Peephole(Idle):
    def forward(self, x, hx=None):
        out, state = super().forward(x, hx)
        return out * self.extra.sum(), state


@pytest.mark.parametrize(("kind", "reason"), [(Peephole, "used by sum"), (Idle, "not called in the reference forward")])
def test_a_matrix_that_stays_has_its_own_reason(kind, reason):
    """It was "a subclass with a forward of its own" and "a weight or option not supported"; the LSTM was solved."""
    space = TargetSpace(net(lambda m, h: sequence(m.layer, h), layer=kind(2, 2, **SEQUENCES)), batch())
    assert list(space.targets) == ["0", "2.layer.l0", "4"]
    assert [(left.name, left.reason) for left in space.left] == [("2.layer", reason)]
    assert f"in weight space: 2.layer.extra ({kind.__name__}: {reason})" in space.describe()
