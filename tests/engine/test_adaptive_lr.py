"""TargetAdam with adaptive_lr: its formula, schedules, groups, states, and what it leaves as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.support.nets import dense, moons
from ts_lightning import TargetAdam, TargetSpace
from ts_lightning.engine.targets.target import Target

LR = 0.01


def optimizer_of(*targets, lr=LR, momentum=0.0, **options):
    return TargetAdam(targets, lr, momentum=momentum, adaptive_lr=True, **options)


def step(optimizer, *gradients):
    """A step, and the root mean square by which each target moved."""
    targets = [p for group in optimizer.param_groups for p in group["params"]]
    before = [target.detach().clone() for target in targets]
    for target, gradient in zip(targets, gradients, strict=True):
        target.grad = gradient.clone()
    optimizer.step()
    return [float((t.detach() - b).abs().square().mean().sqrt()) for t, b in zip(targets, before, strict=True)]


def test_in_one_direction_the_rate_is_the_way_over_the_root_of_the_steps():
    target, gradient = Target(torch.zeros(3, 4)), torch.ones(3, 4)
    optimizer, come = optimizer_of(target), 0.0
    for made in range(1, 60):
        (moved,) = step(optimizer, gradient)
        assert moved == pytest.approx(max(LR, come / made**0.5), rel=1e-5)
        come += moved
    assert come > 3 * 60 * LR


def test_without_a_direction_the_rate_stays():
    target = Target(torch.zeros(3, 4))
    optimizer = optimizer_of(target)
    for made in range(40):
        (moved,) = step(optimizer, (-1.0) ** made * torch.ones(3, 4))
        assert moved == pytest.approx(LR, rel=1e-5)


def test_the_way_back_does_not_count():
    """The distance is the largest so far, as DoG's."""
    target = Target(torch.zeros(2))
    optimizer, places = optimizer_of(target), [0.0]
    for made in range(1, 40):
        (moved,) = step(optimizer, (1.0 if made < 20 else -1.0) * torch.ones(2))
        assert moved == pytest.approx(max(LR, max(map(abs, places)) / made**0.5), rel=1e-4)
        places.append(float(target.detach()[0]))


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_schedule_multiplies_the_rate(share):
    """Of the highest rate so far: a warm-up does not count as a small one, and a rate of 0 is one."""
    target = Target(torch.zeros(2))
    optimizer = optimizer_of(target)
    for _ in range(20):
        step(optimizer, torch.ones(2))
    twin = copy.deepcopy(optimizer)
    (moved,) = step(twin, torch.ones(2))
    optimizer.param_groups[0]["lr"] *= share
    (scaled,) = step(optimizer, torch.ones(2))
    assert moved > 2 * LR
    assert scaled == pytest.approx(share * moved, rel=1e-5)


def test_a_rate_of_zero_at_the_start_is_one():
    target = Target(torch.zeros(2))
    optimizer = optimizer_of(target, lr=0.0)
    assert step(optimizer, torch.ones(2)) == [0.0]
    optimizer.param_groups[0]["lr"] = LR
    assert step(optimizer, torch.ones(2)) == pytest.approx([LR])


def test_all_layers_have_one_distance_and_each_group_its_rate():
    """A group without the option keeps its rate, and counts."""
    targets = [Target(torch.zeros(4)), Target(torch.zeros(2, 3)), Target(torch.zeros(5))]
    groups = [
        {"params": [targets[0]]},
        {"params": [targets[1]], "lr": LR / 2},
        {"params": [targets[2]], "adaptive_lr": False},
    ]
    optimizer = TargetAdam(groups, LR, momentum=0.0, adaptive_lr=True)
    come = [0.0, 0.0, 0.0]
    for made in range(1, 30):
        distance = (sum(way**2 for way in come) / 3) ** 0.5
        growth = max(1.0, distance / (LR * made**0.5))
        moved = step(optimizer, *(torch.ones_like(target) for target in targets))
        assert moved == pytest.approx([growth * LR, growth * LR / 2, LR], rel=1e-4)
        come = [way + one for way, one in zip(come, moved, strict=True)]
    assert growth > 2


def test_what_is_not_solved_grows_along():
    target, table, twin = Target(torch.zeros(3)), nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    ours = TargetAdam([target, table], LR, momentum=0.0, rest_lr_mult=2.0, adaptive_lr=True)
    adamw = torch.optim.AdamW([twin], LR, weight_decay=0.0)
    come = 0.0
    torch.manual_seed(0)
    for made in range(1, 30):
        target.grad, table.grad = torch.ones(3), torch.randn(4)
        twin.grad = table.grad.clone()
        rate = max(LR, come / made**0.5)
        adamw.param_groups[0]["lr"] = 2 * rate
        ours.step()
        adamw.step()
        come += rate
        torch.testing.assert_close(table, twin)


def test_layers_that_make_no_step_count_where_they_are():
    """Of one layer alone the distance was that of it alone, larger from then on."""
    far, near = Target(torch.zeros(4)), Target(torch.zeros(2, 3))
    optimizer, come = optimizer_of(far, near), 0.0
    for made in range(1, 60):
        size = 2**0.5 if made < 30 else 1.0  # of which the mean over layers with a gradient is 1
        far.grad, near.grad = size * torch.ones(4), torch.zeros(2, 3) if made < 30 else None
        before = far.detach().clone()
        optimizer.step()
        moved = float((before - far.detach())[0])
        growth = max(1.0, come / 2**0.5 / (LR * made**0.5))
        assert moved == pytest.approx(growth * size * LR, rel=1e-4)
        come += moved
    assert growth > 2


@pytest.mark.parametrize("own", [True, False])
def test_what_is_not_solved_grows_along_in_steps_without_a_gradient_of_targets(own):
    """It fell back to the given rate; ``own`` targets grow as well, or keep theirs."""
    target, table = Target(torch.zeros(3)), nn.Parameter(torch.ones(4))
    optimizer = TargetAdam([{"params": [target], "adaptive_lr": own}, {"params": [table]}], LR, adaptive_lr=True)
    ways = []
    for made in range(40):
        target.grad, table.grad = torch.ones(3) if made < 30 or made == 39 else None, torch.ones(4)
        before = table.detach().clone()
        optimizer.step()
        ways.append(float((before - table.detach())[0]))
    assert ways[30:] == pytest.approx([ways[30]] * 10, rel=1e-4)
    assert ways[30] > 2 * LR


def test_without_targets_it_is_adamw():
    table, twin = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    ours, adamw = optimizer_of(table), torch.optim.AdamW([twin], LR, weight_decay=0.0)
    for _ in range(20):
        table.grad, twin.grad = torch.ones(4), torch.ones(4)
        ours.step()
        adamw.step()
    torch.testing.assert_close(table, twin)


def trained(steps, space=None, optimizer=None):
    """A net of dense layers and a norm after so many steps at an adaptive rate."""
    space = TargetSpace(dense(norm=True), moons()[0]) if space is None else space
    optimizer = TargetAdam(space.parameters(), LR, adaptive_lr=True) if optimizer is None else optimizer
    x, y = moons()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(space.model(x), y).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    return space, optimizer


def test_its_state_goes_on():
    space, optimizer = trained(6)
    state = copy.deepcopy((space.state_dict(), optimizer.state_dict(), space.model.state_dict()))
    expected, _ = trained(12)
    model = dense(norm=True)
    model.load_state_dict(state[2])
    again = TargetSpace(model, moons()[0], state=state[0])
    optimizer = TargetAdam(again.parameters(), LR, adaptive_lr=True)
    optimizer.load_state_dict(state[1])
    trained(6, again, optimizer)
    for name, target in expected.targets.items():
        assert torch.equal(again.targets[name], target)


def test_it_can_begin_behind_other_steps():
    """A state from without it: the way is measured from there."""
    space, optimizer = trained(4, optimizer=None)
    plain = TargetAdam(space.parameters(), LR)
    trained(3, space, plain)
    state = plain.state_dict()
    for group in state["param_groups"]:
        group["adaptive_lr"] = True
    optimizer = TargetAdam(space.parameters(), LR)
    optimizer.load_state_dict(state)
    trained(5, space, optimizer)
    assert all(set(optimizer.state[target]) >= {"moved", "distance", "highest_lr"} for target in space.targets.values())
    assert all(target.isfinite().all() for target in space.targets.values())


def test_targets_that_something_else_moves_have_come_no_further():
    """As another reference batch, or weights from a file, puts them elsewhere."""
    target = Target(torch.zeros(2))
    optimizer = optimizer_of(target)
    for made in range(10):
        with torch.no_grad():
            target.add_(100.0)
        (moved,) = step(optimizer, (-1.0) ** made * torch.ones(2))
        assert moved == pytest.approx(LR, rel=1e-3)
