"""Forwards that recompute, differentiate, hold frozen norms or use a weight twice: exact, or refused by name."""

import weakref

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.support.exactness import check_each_target
from tests.support.middles import EXACT, batch, net, noting, steps
from ts_lightning import TargetSpace, TargetSpaceConfig, TargetSpaceError


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
    check_each_target(space, loss, step=1e-6, rel=1e-5, absolute=1e-7)


def test_a_weight_that_is_used_before_its_layer_is_refused_with_both_names():
    with pytest.raises(TargetSpaceError, match=r"'last' depends on the weight of layer 'encoder'.*exclude"):
        TargetSpace(Tied(ahead=True).double(), batch(), EXACT)


class Mapped(nn.Module):
    """A layer's weight in a mapped function, behind the layer's own call: handed over, or taken from around it."""

    def __init__(self, handed_over):
        super().__init__()
        self.first, self.last, self.handed_over = nn.Linear(3, 4), nn.Linear(4, 2), handed_over

    def forward(self, x):
        h, weight = torch.tanh(self.first(x)), self.first.weight
        if self.handed_over:
            return self.last(h * torch.vmap(lambda row: row.square().sum())(weight))
        return self.last(torch.vmap(lambda sample: sample * weight.square().sum(1))(h))


def test_a_solved_weight_that_is_handed_to_a_transform_is_refused_and_one_around_it_has_exact_gradients():
    torch.manual_seed(0)
    with pytest.raises(TargetSpaceError, match=r"'last' depends on the weight of layer 'first'.* transform.*'first'"):
        TargetSpace(Mapped(handed_over=True).double(), batch(), EXACT)
    model = Mapped(handed_over=False).double()
    space = TargetSpace(model, batch(), EXACT)

    def loss():
        return model(batch(8, seed=2)).square().sum()

    loss().backward()
    space.pullback()
    assert list(space.targets) == ["first", "last"]
    check_each_target(space, loss, step=1e-6, rel=1e-5, absolute=1e-7)


def test_a_layer_behind_its_own_weight_is_refused():
    class Ahead(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.last(torch.tanh(functional.linear(torch.tanh(self.first(x)), self.last.weight)))

    with pytest.raises(TargetSpaceError, match=r"layer 'last' depends on its own weight.*exclude"):
        TargetSpace(Ahead().double(), batch(), EXACT)


class Child(nn.Linear):
    """Knows its parent, and counts there."""

    held = None

    def forward(self, x):
        parent = self.held[0] if isinstance(self.held, (list, tuple)) else self.held
        parent = parent["parent"] if isinstance(parent, dict) else parent
        parent.calls += 1
        return super().forward(x) * parent.scale


@pytest.mark.parametrize("hold", [lambda p: p, lambda p: [p], lambda p: (p,), lambda p: {"parent": p}])
def test_a_module_may_hold_a_proxy_of_its_parent(hold):
    class Parent(nn.Sequential):
        calls, scale = 0, 2.0

    model = Parent(nn.Linear(3, 4), nn.Tanh(), Child(4, 2))
    model[2].__dict__["held"] = hold(weakref.proxy(model))
    x = torch.randn(20, 3)
    space = TargetSpace(model, x)
    space.solve()
    assert list(space.targets) == ["0", "2"]
    assert model.calls == 0
    model(x).square().mean().backward()
    space.pullback()
    assert all(target.grad is not None for target in space.targets.values())
