"""Loops of one's own: a pull-back that is left out, gradients that nobody clears, several optimizers."""

import warnings
from functools import partial

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.nn import functional

from tests.support.nets import dense, moons
from ts_lightning import TargetAdam, TargetSpace, TargetSpaceError


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


def two_in_turns(clear, wrap=lambda model, optimizer: (model, optimizer), substituted=False, critic_steps=1):
    """A generator and a critic after steps in turns; ``clear`` has another look at the gradients that were left."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    critic = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))
    x, z = torch.randn(30, 3), torch.randn(30, 2)
    spaces, models, optimizers = [], [], []
    for model, batch in ((generator, z), (critic, x)):
        space = TargetSpace(model, batch)
        optimizer = torch.optim.SGD(model.parameters() if substituted else space.parameters(), lr=0.1)
        if substituted:
            space.substitute(optimizer)
        wrapped, optimizer = wrap(model, optimizer)
        spaces, models, optimizers = [*spaces, space], [*models, wrapped], [*optimizers, optimizer]

    def step(which, loss):
        optimizers[which].zero_grad()
        clear((generator, critic)[which])
        loss().backward()
        spaces[which].pullback()
        optimizers[which].step()
        spaces[which].solve()

    made, judged = models
    for _ in range(3):
        for _ in range(critic_steps):
            step(1, lambda: judged(made(z).detach()).mean() - judged(x).mean())
        step(0, lambda: -judged(made(z)).mean())
    return [parameter.detach() for model in (generator, critic) for parameter in model.parameters()]


def by_fabric(model, optimizer):
    return Fabric(accelerator="cpu", devices=1).setup(model, optimizer)


@pytest.mark.parametrize("critic_steps", [1, 2])
@pytest.mark.parametrize(
    "options", [{}, {"substituted": True}, {"wrap": by_fabric}, {"wrap": by_fabric, "substituted": True}]
)
def test_what_another_models_backward_pass_left_on_the_weights_is_cleared(options, critic_steps):
    """It counted in the critic's next step, with an optimizer of ``space.parameters()``."""
    expected = two_in_turns(lambda model: model.zero_grad(), critic_steps=critic_steps)
    found = two_in_turns(lambda model: None, **options, critic_steps=critic_steps)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    "clear", [lambda target: setattr(target, "grad", None), lambda target: delattr(target, "grad")]
)
def test_targets_that_are_cleared_one_by_one_clear_their_layers_weights(clear):
    model, x = dense(), moons()[0]
    space = TargetSpace(model, x)
    model(x).sum().backward()
    clear(space.targets["hidden.1"])
    cleared = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert cleared == ["hidden.1.weight", "hidden.1.bias"]


def test_pullbacks_that_keep_the_weights_gradients_leave_them_there():
    x, y = moons()
    gradients = []
    for shares in ([1.0], [0.3, 0.7]):
        model = dense().double()
        space = TargetSpace(model, x.double())
        loss = functional.cross_entropy(model(x.double()), y)
        for share in shares:
            (share * loss).backward(retain_graph=True)
            space.pullback(keep=True)
        gradients.append([p.grad for p in (*space.parameters(), *model.parameters())])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def refreshed(optimizer, fresh, rows=40):
    """The targets after a step on either side of a refresh; ``fresh`` may make something anew behind it."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double(), torch.randn(60, 3).double()
    space = TargetSpace(model, x[:30])
    optimizer = optimizer(space.parameters(), lr=0.01)

    def backward(one):
        model(x).square().mean().backward()
        one.pullback()

    backward(space)
    optimizer.step()
    space.solve()
    space.refresh(x[-rows:])
    fresh(optimizer, space)
    backward(space)
    optimizer.step()
    space.solve()
    return [target.detach() for target in space.targets.values()]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(torch.optim.SGD, momentum=0.9), TargetAdam])
def test_moments_of_another_number_of_samples_are_refused_by_name(optimizer):
    with pytest.raises(
        TargetSpaceError, match=r"holds moments \(30, 8\) of targets \(40, 8\), as behind space.refresh"
    ):
        refreshed(optimizer, lambda *_: None)

    def drop(optimizer, space):
        for target in space.targets.values():
            optimizer.state.pop(target, None)

    assert all(len(target) == 40 and target.isfinite().all() for target in refreshed(optimizer, drop))


def test_a_refresh_with_another_number_of_samples_drops_the_gradients_of_the_old_ones():
    """Without moments, nobody has to clear them."""
    cleared = refreshed(torch.optim.SGD, lambda optimizer, _: optimizer.zero_grad())
    assert all(map(torch.equal, refreshed(torch.optim.SGD, lambda *_: None), cleared))
