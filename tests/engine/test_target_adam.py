"""TargetAdam: its formula, AdamW for everything else, no scale of the loss, no long step, and what it refuses."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.nets import dense, moons
from ts_lightning import TargetAdam, TargetSpace, TargetSpaceError
from ts_lightning.engine.targets.target import Target
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
            mean.mul_(MOMENTUM).add_(g / length, alpha=1 - MOMENTUM)
            target -= LR * mean / (1 - MOMENTUM**step)
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


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_everything_else_is_trained_by_adamw(dtype, decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5, dtype=dtype), nn.Tanh(), nn.Linear(5, 2, dtype=dtype))
    twin, x = copy.deepcopy(model), torch.randn(20, 3, dtype=dtype)
    ours = TargetAdam([{"params": model.parameters(), "weight_decay": decay}], 0.01)
    adamw = torch.optim.AdamW(twin.parameters(), 0.01, weight_decay=decay)
    for _ in range(5):
        for net, optimizer in ((model, ours), (twin, adamw)):
            optimizer.zero_grad()
            net(x).abs().square().sum().backward()
            optimizer.step()
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("where", ["all", "group"])
def test_what_is_not_solved_has_a_rate_of_its_own_beside_targets(where):
    """It is a multiple of the group's, which schedulers change; without targets, as behind ``until``, there is none."""
    torch.manual_seed(0)
    target, table, twin = Target(torch.zeros(4, 3)), nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    options = {"rest_lr_mult": 10.0}
    groups = [{"params": [target]}, {"params": [table], **(options if where == "group" else {})}]
    ours = TargetAdam(groups, 0.002, weight_decay=0.1, **(options if where == "all" else {}))
    adamw = torch.optim.AdamW([twin], 0.02, weight_decay=0.1)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(one, 0.5) for one in (ours, adamw)]
    alone, held = Target(torch.zeros(4, 3)), torch.randn(4, 3)
    plain = TargetAdam([alone], 0.002)
    for step in range(4):
        target.grad, alone.grad, table.grad = held.clone(), held.clone(), torch.randn(5)
        twin.grad = table.grad.clone()
        ours.step()
        adamw.step()
        torch.testing.assert_close(table, twin)
        if step == 0:
            plain.step()
            torch.testing.assert_close(target.detach(), alone.detach(), rtol=0, atol=0)
        for schedule in schedules:
            schedule.step()
    ours.param_groups[0]["params"], before = [], table.detach().clone()
    ours.param_groups[1]["lr"], table.grad = 0.001, torch.randn(5)
    ours.step()
    assert 0 < float((table.detach() - before).abs().max()) < 0.002


@pytest.mark.parametrize("betas", [[0.9, 0.999], [0.999, 0.9], [0.5, 0.9, 0.5]])
def test_each_group_averages_with_its_own_beta(betas):
    """The average of the first group was taken for that of the others: steps were up to 22 times too short."""
    torch.manual_seed(0)
    gradients = torch.randn(20, 5)

    def stepped(chosen):
        targets = [Target(torch.zeros(5)) for _ in chosen]
        groups = [{"params": [t], "betas": (0.9, beta)} for t, beta in zip(targets, chosen, strict=True)]
        optimizer = TargetAdam(groups, LR)
        for gradient in gradients:
            for target in targets:
                target.grad = gradient.clone()
            optimizer.step()
        return [target.detach() for target in targets]

    for target, beta in zip(stepped(betas), betas, strict=True):
        torch.testing.assert_close(target, stepped([beta])[0])


def train(space, optimizer, steps, scale=1.0):
    """So many steps on a loss times ``scale``."""
    x, y = moons()
    for _ in range(steps):
        optimizer.zero_grad()
        (scale * functional.cross_entropy(space.model(x), y)).backward()
        space.pullback()
        optimizer.step()
        space.solve()


def trained(scale, steps=10, **options):
    """A net with a norm, after so many steps; its space and optimizer."""
    space = TargetSpace(dense(norm=True), moons()[0])
    optimizer = TargetAdam(space.parameters(), **options)
    train(space, optimizer, steps, scale)
    return space, optimizer


def test_the_scale_of_the_loss_does_not_matter():
    (one, _), (many, _) = trained(1.0, eps=0.0), trained(1024.0, eps=0.0)
    for name, target in one.targets.items():
        torch.testing.assert_close(many.targets[name], target)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_no_step_is_longer_than_the_learning_rate(momentum):
    targets = [Target(torch.zeros(50)), Target(torch.zeros(50))]
    optimizer = TargetAdam(targets, 0.01, momentum=momentum)
    for size in (*[1e-3] * 30, 1.0, *[1e-3] * 5, 1e6, 1e-3, 1e-3, 1e19, 1e-3, 1e-3):  # sudden ones, then calm
        before = [target.detach().clone() for target in targets]
        for target, share in zip(targets, (1.0, 1e-3), strict=True):
            target.grad = torch.full((50,), size * share)
        optimizer.step()
        moved = [float((t.detach() - b).square().mean()) for t, b in zip(targets, before, strict=True)]
        assert (sum(moved) / 2) ** 0.5 <= 0.01 * 1.01
        assert moved[1] <= 1.1e-6 * moved[0]  # in the proportion of the gradients
    assert all(target.isfinite().all() for target in targets)


def test_a_target_without_a_gradient_is_left_alone_and_joins_the_others():
    targets = [Target(torch.ones(4)), Target(torch.ones(4))]
    optimizer = TargetAdam(targets, 0.1, momentum=0.0)
    for _ in range(5):
        targets[0].grad = torch.ones(4)
        optimizer.step()
    assert not torch.equal(targets[0], torch.ones(4))
    assert torch.equal(targets[1], torch.ones(4))
    targets[1].grad = torch.ones(4)
    optimizer.add_param_group({"params": [Target(torch.ones(3))]})
    optimizer.param_groups[1]["params"][0].grad = torch.ones(3)
    before = targets[0].detach().clone()
    optimizer.step()
    step = before - targets[0].detach()
    torch.testing.assert_close(1 - targets[1].detach(), step)
    torch.testing.assert_close(1 - optimizer.param_groups[1]["params"][0].detach(), step[:3])


def test_an_empty_target_says_nothing_of_the_others():
    targets = [Target(torch.ones(4)), Target(torch.ones(0, 4))]
    for target in targets:
        target.grad = torch.ones_like(target)
    TargetAdam(targets, 0.1).step()
    assert targets[0].isfinite().all()


def test_steps_are_counted_whatever_the_default_precision():
    target, weight, ones = Target(torch.ones(4)), nn.Parameter(torch.ones(4)), torch.ones(4)
    optimizer = TargetAdam([target, weight])
    torch.set_default_dtype(torch.bfloat16)
    try:
        for _ in range(300):
            target.grad, weight.grad = ones.clone(), ones.clone()
            optimizer.step()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [int(optimizer.state[p]["step"]) for p in (target, weight)] == [300, 300]


def test_a_copy_measures_over_the_same_processes():
    target = Target(torch.ones(3))
    target.shards = object()
    assert copy.deepcopy(target).shards is target.shards


def test_the_state_of_adam_is_taken_for_what_both_train():
    space = TargetSpace(dense(norm=True), moons()[0])
    adam = torch.optim.Adam(space.parameters(), 0.01)
    train(space, adam, 1)
    optimizer = TargetAdam(space.parameters(), 0.01)
    with pytest.warns(UserWarning, match="the state of another optimizer.*layers' targets start anew"):
        optimizer.load_state_dict(adam.state_dict())
    targets = set(space.targets.values())
    others = [p for p in space.parameters() if p not in targets]
    assert others
    assert all(torch.equal(optimizer.state[p]["exp_avg"], adam.state[p]["exp_avg"]) for p in others)
    assert not targets.intersection(optimizer.state)
    train(space, optimizer, 1)
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_its_state_goes_on():
    space, optimizer = trained(1.0, steps=4)
    state = copy.deepcopy((space.state_dict(), optimizer.state_dict(), space.model.state_dict()))
    expected, _ = trained(1.0, steps=8)
    model = dense(norm=True)
    model.load_state_dict(state[2])
    again = TargetSpace(model, moons()[0], state=state[0])
    optimizer = TargetAdam(again.parameters())
    optimizer.load_state_dict(state[1])
    train(again, optimizer, 4)
    for name, target in expected.targets.items():
        assert torch.equal(again.targets[name], target)


@pytest.mark.parametrize("within", ["pickle", "state_dict"])
def test_a_state_from_before_there_was_a_rate_for_the_rest_is_taken(within):
    table = nn.Parameter(torch.ones(3))
    optimizer = TargetAdam([table])
    state = copy.deepcopy(optimizer.__getstate__() if within == "pickle" else optimizer.state_dict())
    for options in (state.get("defaults", {}), *state["param_groups"]):
        options.pop("rest_lr_mult", None)
    if within == "pickle":
        optimizer = TargetAdam.__new__(TargetAdam)
        optimizer.__setstate__(state)
    else:
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["rest_lr_mult"] == 1
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert optimizer.param_groups[1]["rest_lr_mult"] == 1


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
        ({"betas": 0.9}, r"betas: found 0.9; expected two numbers"),
        ({"betas": (0.9,)}, r"betas: found \(0.9,\); expected two numbers"),
        ({"momentum": 1.0}, "momentum: found 1"),
        ({"eps": -1e-8}, "eps: found -1e-08"),
        ({"weight_decay": -1.0}, "weight_decay: found -1"),
        ({"rest_lr_mult": -1.0}, "rest_lr_mult: found -1"),
        ({"rest_lr_mult": None}, "rest_lr_mult: found None; expected a number"),
        ({"lr": "1e-3"}, "lr: found '1e-3'; expected a number"),
        ({"momentum": "0.5"}, "momentum: found '0.5'; expected a number"),
        ({"adaptive_lr": "no"}, "adaptive_lr: found 'no'; expected True or False"),
        ({"adaptive_lr": None}, "adaptive_lr: found None; expected True or False"),
        ({"lr": np.array([0.1, 0.2])}, "lr: found .*; expected a number"),
        ({"eps": torch.ones(2)}, "eps: found .*; expected a number"),
    ],
)
def test_settings_out_of_range_are_refused(options, what):
    with pytest.raises(SettingError, match=what):
        TargetAdam([Target(torch.zeros(2))], **options)
    with pytest.raises(SettingError, match=what):
        TargetAdam([{"params": [Target(torch.zeros(2))], **options}])


@pytest.mark.parametrize("option", ["amsgrad", "maximize", "differentiable", "fused", "capturable"])
def test_options_that_only_adam_has_are_refused(option):
    with pytest.raises(SettingError, match=f"TargetAdam has no {option}: found True in a parameter group"):
        TargetAdam([{"params": [Target(torch.zeros(2))], option: True, "name": "head"}])


def test_sparse_gradients_are_refused():
    embedding = nn.Embedding(5, 2, sparse=True)
    optimizer = TargetAdam(embedding.parameters())
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(TargetSpaceError, match="TargetAdam does not support sparse gradients"):
        optimizer.step()
