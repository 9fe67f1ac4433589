"""Hooks of a user's own on an optimizer's step find what they find in weight space: gradients ahead, weights behind."""

from functools import partial

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.support.fits import Lit, Plain, build, fit

WHEN = ["with the optimizer", "as training starts", "for all optimizers"]


@pytest.fixture
def handles():
    registered = []
    yield registered
    for handle in registered:
        handle.remove()


def called(own, module, *_):
    own(module)


def hooked(cls, when, handles, *, manual, ahead=None, behind=None):
    """A class with hooks on its optimizer's step, which are given the module."""

    class Hooked(cls):
        automatic_optimization = not manual

        def register(self, optimizer):
            everywhere = when == "for all optimizers"
            registered = [
                (ahead, register_optimizer_step_pre_hook if everywhere else optimizer.register_step_pre_hook),
                (behind, register_optimizer_step_post_hook if everywhere else optimizer.register_step_post_hook),
            ]
            handles.extend(put(partial(called, own, self)) for own, put in registered if own is not None)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            if when == "with the optimizer":
                self.register(optimizer)
            return optimizer

        def on_train_start(self):
            if when != "with the optimizer":
                self.register(self.optimizers().optimizer)

        def training_step(self, batch, batch_idx):
            if not manual:
                return super().training_step(batch, batch_idx)
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()
            return None

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.ends = [*getattr(self, "ends", []), weights(self)]

    return Hooked


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("cls", [Plain, Lit])
def test_behind_a_step_are_the_weights_that_it_led_to(cls, when, manual, handles):
    found = []
    model = build(hooked(cls, when, handles, manual=manual, behind=lambda module: found.append(weights(module))))
    fit(model)
    assert len(found) == len(model.ends) == 8
    assert all(map(torch.equal, found, model.ends))
    assert not torch.equal(found[0], found[-1])


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("cls", [Plain, Lit])
def test_gradients_that_are_changed_ahead_of_a_step_count(cls, when, handles):
    def clear(module):
        for parameter in module.parameters():
            parameter.grad.zero_()

    model = build(hooked(cls, when, handles, manual=True, ahead=clear))
    fit(model)
    assert all(torch.equal(one, model.ends[0]) for one in model.ends)


@pytest.mark.parametrize("when", WHEN)
def test_halved_gradients_are_half_the_rate(when, handles):
    def halve(module):
        for parameter in module.parameters():
            parameter.grad.mul_(0.5)

    def slow(module):
        for group in module.optimizers().param_groups:
            group["lr"] = 0.05

    ends = []
    for ahead in (halve, slow):
        model = build(hooked(Lit, when, handles, manual=True, ahead=ahead))
        fit(model)
        handles.pop().remove()
        ends.append(model.ends)
    torch.testing.assert_close(*ends)


class Cleared(torch.optim.SGD):
    def clear(self):
        self._optimizer_step_pre_hooks.clear(), self._optimizer_step_post_hooks.clear()


class Anew(torch.optim.SGD):
    def clear(self):
        torch.optim.Optimizer.__init__(self, self.param_groups, self.defaults)


class Wrapper(torch.optim.Optimizer):
    """Has hooks registered in what it wraps."""

    def __init__(self, params, lr):
        self.inner = torch.optim.SGD(params, lr)
        self.param_groups, self.state, self.defaults = self.inner.param_groups, self.inner.state, self.inner.defaults
        self.register_step_pre_hook = self.inner.register_step_pre_hook
        self.register_step_post_hook = self.inner.register_step_post_hook
        self.step = self.inner.step

    def clear(self):
        pass


@pytest.mark.parametrize("kind", [Cleared, Anew, Wrapper])
def test_hooks_that_somebody_clears_do_not_end_target_space(kind):
    class Clearing(Lit):
        def configure_optimizers(self):
            return getattr(self, "kind", torch.optim.SGD)(self.parameters(), lr=0.1)

        def on_train_epoch_start(self):
            getattr(self.optimizers().optimizer, "clear", lambda: None)()

    found, expected = build(Clearing), build(Clearing)
    found.kind = kind
    fit(found), fit(expected)
    assert torch.equal(weights(found), weights(expected))
