"""Attached optimizers with gradient scalers, and several of them; see tests/support/attached.py."""

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from tests.support.attached import assert_same, fused, sgd


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
