"""TargetAdam: its formula, Adam for everything else, no scale of the loss, no long step, and what it refuses."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.nets import dense, moons
from ts_lightning import TargetAdam, TargetSpace
from ts_lightning.engine.target import Target
from ts_lightning.errors import SettingError

LR, MOMENTUM, BETA, EPS = 0.01, 0.5, 0.9, 1e-6


def written(gradients):
    """The formula, one layer after the other: the targets after steps of these gradients, from zero."""
    targets = [torch.zeros_like(g) for g in gradients[0]]
    means, square = [torch.zeros_like(g) for g in gradients[0]], 0.0
    for step, layers in enumerate(gradients, 1):
        present = sum(float(g.square().mean()) for g in layers) / len(layers)
        square = BETA * square + (1 - BETA) * present
        length = max(square / (1 - BETA**step), present) ** 0.5 + EPS
        for target, mean, g in zip(targets, means, layers, strict=True):
            mean.mul_(MOMENTUM).add_(g, alpha=1 - MOMENTUM)
            target -= LR * mean / (1 - MOMENTUM**step) / length
    return targets


def test_the_formula():
    torch.manual_seed(0)
    scales = torch.tensor([1.0, 0.1, 20.0, 3.0])  # a sudden growth among them
    gradients = [[s * torch.randn(7, 3).double(), 5 * s * torch.randn(2, 4, 5).double()] for s in scales]
    targets = [Target(torch.zeros_like(g)) for g in gradients[0]]
    groups = [{"params": [targets[0]]}, {"params": [targets[1]]}]  # one measure for both
    optimizer = TargetAdam(groups, LR, (0.5, BETA), MOMENTUM, EPS)
    for layers in gradients:
        for target, gradient in zip(targets, layers, strict=True):
            target.grad = gradient
        optimizer.step()
    for target, expected in zip(targets, written(gradients), strict=True):
        torch.testing.assert_close(target.detach(), expected)


def test_everything_else_is_trained_by_adam():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    twin, x = copy.deepcopy(model), torch.randn(20, 3)
    ours, adam = TargetAdam(model.parameters(), 0.01), torch.optim.Adam(twin.parameters(), 0.01)
    for _ in range(5):
        for net, optimizer in ((model, ours), (twin, adam)):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def trained(scale, steps=10, optimizer=None, **options):
    """A net with a norm, after so many steps on a loss times ``scale``; its space and optimizer."""
    x, y = moons()
    model = dense(norm=True)
    space = TargetSpace(model, x)
    optimizer = TargetAdam(space.parameters(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        (scale * functional.cross_entropy(model(x), y)).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return space, optimizer


def test_the_scale_of_the_loss_does_not_matter():
    (one, _), (many, _) = trained(1.0, eps=0.0), trained(1024.0, eps=0.0)
    for name, target in one.targets.items():
        torch.testing.assert_close(many.targets[name], target)


def test_no_step_is_longer_than_the_learning_rate():
    targets = [Target(torch.zeros(50)), Target(torch.zeros(50))]
    optimizer = TargetAdam(targets, 0.01, momentum=0.0)
    for size in (1e-6, 1.0, 1e6):
        before = [target.detach().clone() for target in targets]
        for target, share in zip(targets, (1.0, 1e-3), strict=True):
            target.grad = torch.full((50,), size * share)
        optimizer.step()
        moved = [float((t.detach() - b).square().mean()) for t, b in zip(targets, before, strict=True)]
        assert (sum(moved) / 2) ** 0.5 <= 0.01 * 1.001
        assert moved[1] <= 1.01e-6 * moved[0]  # in the proportion of the gradients


def test_a_target_without_a_gradient_is_left_alone():
    targets = [Target(torch.ones(4)), Target(torch.ones(4))]
    optimizer = TargetAdam(targets, 0.1)
    targets[0].grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(targets[0], torch.ones(4))
    assert torch.equal(targets[1], torch.ones(4))
    targets[1].grad = torch.ones(4)
    optimizer.step()  # its first step beside the other's second
    assert [int(optimizer.state[target]["step"]) for target in targets] == [2, 1]


def test_its_state_goes_on():
    space, optimizer = trained(1.0, steps=4)
    state = copy.deepcopy((space.state_dict(), optimizer.state_dict(), space.model.state_dict()))
    expected, _ = trained(1.0, steps=8)
    x, y = moons()
    model = dense(norm=True)
    model.load_state_dict(state[2])
    again = TargetSpace(model, x, state=state[0])
    optimizer = TargetAdam(again.parameters())
    optimizer.load_state_dict(state[1])
    for _ in range(4):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        again.pullback()
        optimizer.step()
        again.solve()
    for name, target in expected.targets.items():
        assert torch.equal(again.targets[name], target)


def test_a_closure_is_called_with_gradients_on():
    target = Target(torch.ones(3))
    optimizer = TargetAdam([target], 0.1)

    def closure():
        optimizer.zero_grad()
        loss = target.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert float(target.detach().max()) < 1


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"lr": -1.0}, "lr: found -1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]: found 1"),
        ({"betas": (-0.1, 0.9)}, r"betas\[0\]: found -0.1"),
        ({"momentum": 1.0}, "momentum: found 1"),
        ({"eps": -1e-8}, "eps: found -1e-08"),
    ],
)
def test_settings_out_of_range_are_refused(options, what):
    with pytest.raises(SettingError, match=what):
        TargetAdam([Target(torch.zeros(2))], **options)


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = TargetAdam(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="TargetAdam does not support sparse gradients"):
        optimizer.step()
