"""Attached optimizers with gradient scalers, and several of them; see tests/support/attached.py."""

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from tests.support.attached import assert_same, fused, sgd
from ts_lightning import TargetSpace


def scaled(loop, batch, act=lambda loop: None, bad=False):
    loop.scaler.scale(loop.module.loss(batch) * (float("inf") if bad else 1.0)).backward()
    act(loop)
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()
    loop.module.zero_grad()


def unscaled(loop):
    loop.scaler.unscale_(loop.optimizer)


def unscaled_and_clipped(loop):
    loop.scaler.unscale_(loop.optimizer)
    clip_grad_norm_(loop.module.parameters(), 0.1)


def unscaled_and_clipped_little(loop):
    """The norm that the clipping finds is that of unscaled gradients."""
    loop.scaler.unscale_(loop.optimizer)
    clip_grad_norm_(loop.module.parameters(), 0.5)


def read_unscaled_and_clipped(loop):
    [parameter.grad for parameter in loop.trained()]
    unscaled_and_clipped(loop)


@pytest.mark.parametrize("make", [sgd, fused])
@pytest.mark.parametrize(
    "act", [unscaled, unscaled_and_clipped, unscaled_and_clipped_little, read_unscaled_and_clipped]
)
def test_a_gradient_scaler(act, make):
    """Clipping of the model's parameters behind unscale_ found gradients of solved weights that were not unscaled."""
    assert_same(lambda loop, batch: scaled(loop, batch, act, bad=len(loop.module.seen) == 3), make=make)


@pytest.mark.parametrize("make", [sgd, fused])
def test_a_gradient_scaler_that_unscales_in_its_step(make):
    assert_same(lambda loop, batch: scaled(loop, batch, bad=len(loop.module.seen) == 3), make=make)


def two(parameters):
    return sgd(parameters[:2]), torch.optim.Adam(parameters[2:], lr=0.02)


def stepped_together(loop, batch):
    for optimizer in loop.optimizers:
        optimizer.zero_grad()
    loop.module.loss(batch).backward()
    for optimizer in loop.optimizers:
        optimizer.step()


def stepped_in_turns(loop, batch):
    for optimizer in loop.optimizers:
        optimizer.zero_grad()
        loop.module.loss(batch).backward()
        optimizer.step()


def scaled_together(loop, batch):
    loop.scaler.scale(loop.module.loss(batch)).backward()
    for optimizer in loop.optimizers:
        loop.scaler.unscale_(optimizer)
    clip_grad_norm_(loop.module.parameters(), 0.3)
    for optimizer in loop.optimizers:
        loop.scaler.step(optimizer)
    loop.scaler.update()
    loop.module.zero_grad()


@pytest.mark.parametrize("step", [stepped_together, stepped_in_turns, scaled_together], ids=lambda step: step.__name__)
def test_several_optimizers(step):
    assert_same(step, make=two)


def behind_a_norm(read, clip, unscale):
    """The parameters behind two steps of a network whose norm has a part of its gradient from the solves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(12, 3, dtype=torch.float64)
    space = TargetSpace(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    space.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(2):
        for part in (x[:6], x[6:]):  # the second time it is the first one's batch, twice as much of it
            scaler.scale(model(x[:6] if clip is None else part).square().mean()).backward()
            if read:
                [parameter.grad for parameter in space.parameters()]
        if unscale:
            scaler.unscale_(optimizer)
        if clip is not None:
            clip(model)
        scaler.step(optimizer)
        scaler.update()
        model.zero_grad()
    return list(model.parameters())


def in_place(model):
    for parameter in model.parameters():
        parameter.grad.mul_(0.25)


def another_tensor(model):
    for parameter in model.parameters():
        parameter.grad = parameter.grad * 0.25


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("clip", [None, in_place, another_tensor])
def test_who_reads_a_gradient_changes_nothing(clip, unscale):
    """What was clipped behind the reading kept a part of the norm's gradient from before."""
    found, expected = (behind_a_norm(read, clip, unscale) for read in (True, False))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
