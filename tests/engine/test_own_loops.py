"""Loops of one's own: a pull-back that is left out, gradients that nobody clears, several optimizers."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.nets import dense, moons
from ts_lightning import TargetSpace, TargetSpaceError


def by_hand(backward, zero_grad="optimizer", steps=3):
    """The losses of a loop of one's own, which may leave the pull-back out or clear gradients otherwise."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(30, 3)
    space = TargetSpace(model, x)
    optimizer = torch.optim.SGD(space.parameters(), lr=0.01)
    losses = []

    def loss():
        return (model(x) - x[:, :1]).square().mean()

    for _ in range(steps):
        {"optimizer": optimizer, "model": model}[zero_grad].zero_grad()
        losses.append(loss().item())
        backward(space, loss)
        optimizer.step()
        space.solve()
    return losses


def test_a_step_without_a_pullback_is_an_error():
    with pytest.raises(TargetSpaceError, match=r"were not pulled back to them. Call space.pullback\(\)"):
        by_hand(lambda space, loss: loss().backward())


def test_targets_whose_gradients_nobody_cleared_are_said_once():
    def backward(space, loss):
        loss().backward()
        space.pullback()

    with pytest.warns(UserWarning, match="Call zero_grad\\(\\) of the optimizer") as said:
        piled = by_hand(backward, "model")
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_hand(backward)[:2] == piled[:2]  # the first step is one with clean gradients


def test_pullbacks_before_one_step_add_up_without_a_word():
    def backward(space, loss):
        for _ in range(2):
            (loss() / 2).backward()
            space.pullback()
            space.solve()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_hand(backward)


def test_targets_of_another_optimizer_pile_up_without_a_word_until_it_clears_them():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(30, 3)
    space = TargetSpace(model, x)
    optimizers = [torch.optim.SGD([target], lr=0.01) for target in space.targets.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            for optimizer in optimizers:
                optimizer.zero_grad()
                model(x).square().mean().backward()
                space.pullback()
                optimizer.step()
                space.solve()


def test_a_second_pullback_is_an_error_until_the_next_solve():
    x, y = moons()
    model = dense()
    space = TargetSpace(model, x)
    functional.cross_entropy(model(x), y).backward()
    space.pullback()
    functional.cross_entropy(model(x), y).backward()
    with pytest.raises(TargetSpaceError, match=r"pullback\(\) was called twice.*solve\(\) after the step"):
        space.pullback()
    space.solve()
    space.pullback()


def test_a_step_behind_a_loaded_state_without_a_solve_is_refused():
    """It moved targets by gradients that they did not have, and no weight, without a word."""
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(30, 3)
    space = TargetSpace(model, x)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
    space.load_state_dict(space.state_dict())
    model(x).square().mean().backward()
    with pytest.raises(TargetSpaceError, match=r"Adam steps targets without a solve, as behind space\.load_state_dict"):
        optimizer.step()


def test_the_optimizer_of_a_released_space_is_refused():
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(30, 3)
    space = TargetSpace(model, x)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.01)
    model(x).square().mean().backward()
    space.pullback()
    optimizer.step()
    space.release()  # instead of a solve
    model(x).square().mean().backward()
    with pytest.raises(TargetSpaceError, match=r"Adam trains targets of a target space that was released"):
        optimizer.step()
    weights = torch.optim.Adam(model.parameters(), lr=0.01)
    start = model[0].weight.detach().clone()
    weights.step()
    assert not torch.equal(model[0].weight, start)
