"""The graph of an untangling, which serves all steps of a period, where models and users do unusual things."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from tests.support.untangling import CONFIG, move, pulled_back, solved
from ts_lightning import TargetSpace, TargetSpaceError


class Net(nn.Module):
    """Two solved layers around a part."""

    def __init__(self, part):
        super().__init__()
        self.first, self.part, self.last = nn.Linear(3, 6), part, nn.Linear(6, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.part(torch.tanh(self.first(x)))))


class Spectral(nn.Module):
    """A complex parameter, of which the conjugate is read, too."""

    def __init__(self):
        super().__init__()
        self.z = nn.Parameter(torch.randn(6, dtype=torch.complex128))

    def forward(self, h):
        return (h * self.z * self.z.conj() * (0.3 + 0.5j) * self.z).real


class Tangent(nn.Module):
    """Adds a derivative in the direction of ones, whose tangents of weights are zeros without memory."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, h):
        with forward_ad.dual_level():
            return (
                h + forward_ad.unpack_dual(torch.tanh(self.inner(forward_ad.make_dual(h, torch.ones_like(h))))).tangent
            )


class Normaliser(nn.Module):
    """Divides by a running size, which training changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("size", torch.ones(()))

    def forward(self, h):
        if self.training:
            self.size.mul_(0.9).add_(0.1 * h.detach().abs().mean())
        return h / self.size


class Frozen(nn.Module):
    """A weight that is not trained, and an activation; the user changes both."""

    def __init__(self):
        super().__init__()
        self.weight, self.activation = nn.Parameter(torch.randn(6, 6), requires_grad=False), nn.Tanh()

    def forward(self, h):
        return self.activation(h * 0.5 + (h @ self.weight))


def made(part, untangle):
    torch.manual_seed(0)
    model, x = Net(part()).double(), torch.randn(20, 3, generator=torch.Generator().manual_seed(7)).double()
    return model, TargetSpace(model, x, replace(CONFIG, untangle=untangle)), x


def pulled(model, space, x):
    space.cascade.pulled.clear()
    for parameter in space.parameters():
        parameter.grad = None
    model(x).square().sum().backward()
    space.pullback()
    return {name: target.grad for name, target in space.targets.items()}


def in_full(part, model, targets, gradients):
    """What a solve from these targets and the model's own values pulls back of these gradients on the weights."""
    own, other, _ = made(part, 1)
    own.load_state_dict(model.state_dict())
    if part is Frozen:
        own.part.activation = model.part.activation
    with torch.no_grad():
        for name, target in other.targets.items():
            target.copy_(targets[name])
    other.solve()
    pulled_back(other, gradients)
    return {name: target.grad for name, target in other.targets.items()}


def arriving(model, space, x):
    return torch.autograd.grad(model(x).square().sum(), solved(space))


@pytest.mark.parametrize("part", [nn.Identity, Spectral, Tangent], ids=["plain", "complex", "forward derivative"])
def test_the_gradient_is_that_of_the_untangling(part):
    model, space, x = made(part, 50)
    began = copy.deepcopy(model), {name: target.detach().clone() for name, target in space.targets.items()}
    optimizer = torch.optim.Adam(space.parameters(), lr=0.05)
    for _ in range(3):
        found = pulled(model, space, x)
        expected = in_full(part, *began, arriving(model, space, x))
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)
        optimizer.step()
        space.solve()
        assert space.cascade.solution.kept


@pytest.mark.parametrize(
    "change",
    [
        lambda model, space: space.release(),
        lambda model, space: setattr(model.part, "activation", nn.SiLU()),
        lambda model, space: model.part.weight.mul_(0.5),
        lambda model, space: model.part.requires_grad_(True),
    ],
    ids=["released", "another module", "frozen weight written", "thawed"],
)
@pytest.mark.filterwarnings("ignore:Trained from here on")
def test_what_the_graph_no_longer_fits_ends_the_period(change):
    model, space, x = made(Frozen, 50)
    move(space, torch.Generator().manual_seed(1))
    space.solve()
    assert space.cascade.solution.kept
    with torch.no_grad():
        change(model, space)
    space.solve()
    assert not space.cascade.solution.kept
    expected = in_full(Frozen, model, space.targets, arriving(model, space, x))
    for name, gradient in pulled(model, space, x).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)


def test_a_frozen_weight_written_between_solve_and_pull_back():
    model, space, x = made(Frozen, 50)
    model(x).square().sum().backward()
    with torch.no_grad():
        model.part.weight.mul_(0.5)
    space.pullback()
    assert not space.cascade.solution.kept
    assert all(target.grad is not None for target in space.targets.values())


def test_a_state_goes_on_where_training_changes_what_the_pass_reads():
    model, space, x = made(Normaliser, 4)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.05)

    def train(model, space, optimizer):
        for _ in range(3):
            pulled(model, space, x)
            optimizer.step()
            space.solve()

    train(model, space, optimizer)
    other, state = copy.deepcopy(model), copy.deepcopy(space.state_dict())
    goes_on = TargetSpace(other, x, replace(CONFIG, untangle=4), state=state)
    continued = torch.optim.Adam(goes_on.parameters(), lr=0.05)
    continued.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert goes_on.cascade.solution.kept
    for one in ((model, space, optimizer), (other, goes_on, continued)):
        train(*one)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in other.state_dict().items())


def within_a_period():
    model, space, x = made(nn.Identity, 50)
    move(space, torch.Generator().manual_seed(1))
    space.solve()
    return model, space, x


def test_weights_adopted_behind_a_loaded_state_are_kept():
    model, space, _ = within_a_period()
    space.load_state_dict(space.state_dict())
    with torch.no_grad():
        model.last.weight.add_(1.0)
    adopted = model.last.weight.detach().clone()
    space.adopt_weights()
    space.solve()
    torch.testing.assert_close(model.last.weight.detach(), adopted, rtol=1e-10, atol=1e-10)


def test_a_state_that_was_loaded_is_the_state():
    _, space, _ = within_a_period()
    state = copy.deepcopy(space.state_dict())
    space.load_state_dict(state)
    again = space.state_dict()
    assert again["untangling"]["since"] == state["untangling"]["since"] == 1
    for name, value in state["untangling"]["targets"].items():
        assert torch.equal(again["untangling"]["targets"][name], value)


@pytest.mark.parametrize(
    ("change", "named"),
    [(lambda state: state["others"].update({"gone.weight": torch.ones(2)}), "gone.weight"), (dict.clear, "")],
    ids=["another parameter", "none"],
)
def test_a_state_of_another_model_is_said(change, named):
    _, space, _ = within_a_period()
    state = copy.deepcopy(space.state_dict())
    since = state["untangling"]["since"]
    change(state["untangling"])
    state["untangling"].update(since=since, period=50)
    with pytest.warns(UserWarning, match=rf"written between two passes.*{named}"):
        space.load_state_dict(state)
    space.solve()
    assert not space.cascade.solution.kept


def test_derivatives_by_torch_func_are_refused_before_training():
    class Derived(nn.Module):
        def forward(self, h):
            return h + torch.func.vmap(torch.func.grad(lambda each: each.sin().sum()))(h)

    made(Derived, 1)
    with pytest.raises(TargetSpaceError, match=r"torch\.func.*untangle=1"):
        made(Derived, 2)
