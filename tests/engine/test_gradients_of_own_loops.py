"""Loops of one's own that clear and clip gradients ahead of a pull-back, behind it, or those of the model.

By the oracle of tests/support/same_spaces.py; what cannot be as there is said.
"""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from tests.support.fits import loader
from tests.support.same_spaces import CONFIG, Habit
from ts_lightning import TargetSpace


class Loop:
    """A module, its optimizer, and what a loop does in each space."""

    def __init__(self, space):
        torch.manual_seed(0)
        self.module = Habit()
        self.space = TargetSpace(self.module, torch.eye(3, dtype=torch.float64), CONFIG) if space == "target" else None
        self.optimizer = torch.optim.SGD(self.trained(), lr=0.3)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)

    def trained(self):
        return list((self.module if self.space is None else self.space).parameters())

    def pullback(self):
        if self.space is not None:
            self.space.pullback()

    def end(self):
        self.optimizer.step()
        if self.space is not None:
            self.space.solve()


def trained(space, step):
    loop = Loop(space)
    for _ in range(2):
        for batch in loader(dtype=torch.float64):
            step(loop, batch)
    return loop.module.seen, [parameter.detach() for parameter in loop.module.parameters()]


def clears_between_two_passes(loop, batch):
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    loop.optimizer.zero_grad(set_to_none=len(loop.module.seen) % 4 < 2)  # the targets have no gradients yet
    loop.module.loss(batch).backward()
    loop.pullback()
    loop.end()


def clears_what_is_not_finite(loop, batch):
    loop.optimizer.zero_grad()
    bad = len(loop.module.seen) == 2
    (loop.module.loss(batch) * (float("nan") if bad else 1.0)).backward()
    if bad:
        loop.optimizer.zero_grad()
        return
    loop.pullback()
    loop.end()


def moves_sharply(loop, batch):
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    moves = [0.05 * parameter.grad for parameter in loop.module.parameters()]
    for parameter, move in zip(loop.module.parameters(), moves, strict=True):
        parameter.data.add_(move)
    loop.optimizer.zero_grad()
    loop.module.loss(batch).backward()
    for parameter, move in zip(loop.module.parameters(), moves, strict=True):
        parameter.data.sub_(move)
    loop.pullback()
    loop.end()


@pytest.mark.filterwarnings("ignore:The weights of .* were changed since")
@pytest.mark.parametrize("step", [clears_between_two_passes, clears_what_is_not_finite, moves_sharply])
def test_zero_grad_ahead_of_a_pullback_clears_as_in_weight_space(step):
    """What it should have cleared was pulled back later, with what came after it."""
    torch.testing.assert_close(trained("target", step), trained("weight", step))


def stepping(act, behind):
    def step(loop, batch):
        loop.optimizer.zero_grad()
        loop.scaler.scale(loop.module.loss(batch)).backward()
        if not behind:
            act(loop)
        loop.pullback()
        if behind:
            act(loop)
        loop.end()

    return step


def said(step):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trained("target", step)
    return [str(one.message) for one in found]


ACTS = [
    lambda loop: clip_grad_norm_(loop.trained(), 0.1),
    lambda loop: clip_grad_norm_(loop.optimizer.param_groups[0]["params"], 0.1, foreach=False),
    lambda loop: clip_grad_value_(loop.trained(), 0.01),
    lambda loop: loop.scaler.unscale_(loop.optimizer) if len(loop.module.seen) == 1 else None,
]


@pytest.mark.parametrize("act", ACTS)
def test_what_acts_on_gradients_ahead_of_the_pullback_is_named_once(act):
    (message,) = said(stepping(act, behind=False))
    assert message.startswith("Gradients of targets were read ahead of space.pullback()")


@pytest.mark.parametrize("act", ACTS[:3])
def test_behind_it_nothing_is_said_and_all_is_as_in_weight_space(act):
    step = stepping(act, behind=True)
    assert not said(step)
    torch.testing.assert_close(trained("target", step), trained("weight", step))


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
def test_clipping_the_models_parameters_behind_the_pullback_is_named_once(clip):
    """It finds no gradients on solved weights, and has clipped norms and tables alone."""
    (message,) = said(stepping(lambda loop: clip(loop.module.parameters(), 0.01), behind=True))
    assert message.startswith("Gradients of what is not solved were changed behind space.pullback()")


def test_ahead_of_the_pullback_it_is_as_in_weight_space():
    step = stepping(lambda loop: clip_grad_norm_(loop.module.parameters(), 0.1), behind=False)
    assert not said(step)
    torch.testing.assert_close(trained("target", step), trained("weight", step))


def test_a_factor_of_all_and_another_optimizer_are_no_news():
    def step(loop, batch):
        stepping(lambda loop: [p.grad.mul_(0.5) for p in loop.trained()], behind=True)(loop, batch)
        other = torch.optim.SGD([loop.module.scale], lr=0.1)
        loop.module.scale.grad = torch.ones(4, dtype=torch.float64)
        loop.module.scale.grad.clamp_(max=0.1)
        other.step()
        if loop.space is not None:
            loop.space.solve()

    assert not said(step)
    torch.testing.assert_close(trained("target", step), trained("weight", step))


def masked(parameters, value):
    for parameter in parameters:
        parameter.grad[0] = value


def with_a_norm(act, read):
    """The gradients with which the norm steps, those that ``act`` left on it, what was said, and the last weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2)).double()
    space = TargetSpace(model, torch.randn(16, 3, dtype=torch.float64))
    optimizer = torch.optim.SGD(space.parameters(), lr=0.1)
    stepped = []
    optimizer.register_step_pre_hook(lambda *_: stepped.append(model[2].weight.grad.clone()))
    left = []
    with warnings.catch_warnings(record=True) as found, space.attach(optimizer):
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(2):
                model(torch.randn(16, 3, dtype=torch.float64)).square().mean().backward()
                if read:
                    [target.grad for target in space.targets.values()]
            act(list(model.parameters()), 1e-4)
            left.append(model[2].weight.grad.clone())
            optimizer.step()
    return stepped, left, [str(one.message)[:38] for one in found], list(model.parameters())


@pytest.mark.parametrize("act", [clip_grad_value_, masked])
def test_what_is_changed_behind_a_look_at_targets_stays_and_is_named(act):
    """The share of a norm was taken off its clipped gradient, and added anew, without a word."""
    stepped, left, said, _ = with_a_norm(act, read=True)
    torch.testing.assert_close(stepped, left, rtol=0, atol=0)
    assert said == ["Gradients on solved weights were chang"]


def test_a_look_between_backward_passes_changes_nothing():
    *_, said, weights = with_a_norm(lambda parameters, value: None, read=True)
    assert not said
    torch.testing.assert_close(weights, with_a_norm(lambda parameters, value: None, read=False)[-1])
