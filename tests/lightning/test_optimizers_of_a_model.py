"""Optimizers that ask a model for its weights, beside their parameter groups.

Their steps on the weights were overwritten by the next solve, without a word.
"""

import warnings

import pytest
import torch

from tests.support.same_spaces import Habit, assert_same_in_both_spaces


class OfModel(torch.optim.SGD):
    def __init__(self, model, lr):
        super().__init__(model.parameters(), lr)
        self.ask = model.parameters  # a method, in which no look at attributes finds weights


class Steps(OfModel):
    """Steps what the model has."""

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for parameter in self.ask():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])
        return loss


class StepsSome(Steps):
    """Steps one part of what the model has, the other part by the groups."""

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        first = next(iter(self.ask()))
        for parameter in [first, *self.param_groups[0]["params"][1:]]:
            parameter.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])
        return loss


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
