"""Optimizers that ask a model for its weights, beside their parameter groups.

Their steps on the weights were overwritten by the next solve, without a word.
"""

import warnings

import pytest
import torch

from tests.support.fits import fit, loader
from tests.support.same_spaces import Habit, assert_same_in_both_spaces
from ts_lightning import TargetSpaceMixin


class OfModel(torch.optim.SGD):
    def __init__(self, model, lr):
        super().__init__(model.parameters(), lr)
        self.ask = model.parameters  # a method, in which no look at attributes finds weights


class Moves(OfModel):
    """Makes the step of its ``move``."""

    def step(self, closure=None):
        loss = None if closure is None else closure()
        with torch.no_grad():
            self.move()
        return loss


class Steps(Moves):
    """Steps what the model has."""

    def move(self):
        for parameter in self.ask():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])


class StepsSome(Steps):
    """Steps one part of what the model has, the other part by the groups."""

    def move(self):
        first = next(iter(self.ask()))
        for parameter in [first, *self.param_groups[0]["params"][1:]]:
            parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("kind", [Steps, StepsSome])
def test_equals_weight_space(kind, manual, look):
    class Net(Habit):
        automatic_optimization = not manual

        def configure_optimizers(self):
            return kind(self, 0.1)

        def on_after_backward(self):
            if look:
                self.seen.append(torch.stack([p.grad.norm() for p in self.parameters()]))

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if not manual:
                return loss
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            return self.optimizers().step()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The weights of .* were changed since the last optimizer step")
        assert_same_in_both_spaces(Net)


def test_weights_that_a_step_writes_are_named():
    class Net(Habit):
        def configure_optimizers(self):
            return Steps(self, 0.1)

    with pytest.warns(UserWarning, match="The weights of a, b were changed since the last optimizer step"):
        assert_same_in_both_spaces(Net)


class Scales(OfModel):
    """Changes the gradients of the model's weights, as K-FAC does, and has its base class make the step."""

    def __init__(self, model, lr, way, earlier):
        if earlier:  # from which on torch calls hooks around the base class's step, too
            torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
        super().__init__(model, lr)
        self.way = way

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for n, parameter in enumerate(self.ask()):
            if parameter.grad is None:
                continue
            if self.way == "in place":
                parameter.grad.mul_(n + 1)
            elif self.way == "data":
                parameter.grad.data.mul_(n + 1)
            else:
                parameter.grad = parameter.grad * (n + 1)
        super().step()
        return loss


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("way", ["in place", "data", "another"])
def test_gradients_that_a_step_changes_first_count(way, manual, earlier):
    class Net(Habit):
        automatic_optimization = not manual

        def configure_optimizers(self):
            return Scales(self, 0.1, way, earlier)

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if not manual:
                return loss
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            return self.optimizers().step()

    assert_same_in_both_spaces(Net)


class Clamps(Moves):
    """Clamps the model's weights behind its own step."""

    def move(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])
        for parameter in self.ask():
            parameter.clamp_(-0.1, 0.1)


def test_weights_that_a_step_writes_beside_their_targets_are_said():
    class Net(TargetSpaceMixin, Habit):
        def configure_optimizers(self):
            return Clamps(self, 0.1)

    with pytest.warns(UserWarning, match="of (a|b|a, b) were changed within an optimizer's step, .* overwrites them"):
        fit(Net(), loader(dtype=torch.float64))
