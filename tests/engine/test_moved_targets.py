"""Methods of an attached optimizer that move what it trains without a step: the weights follow at once."""

import copy

import pytest
import torch
from torch import nn

from tests.support.optimizer_states import Descent, network
from ts_lightning import TargetSpace


class Averaging(Descent):
    """Evaluates the average of all steps, as schedule-free optimizers do."""

    training = True

    def move(self, parameter):
        assert self.training
        state = self.state[parameter]
        state["sum"] = state.get("sum", 0) + parameter.detach()
        state["steps"] = state.get("steps", 0) + 1
        return parameter.grad

    @torch.no_grad()
    def exchange(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                average = state["sum"] / state["steps"] if self.training else state.pop("kept")
                if self.training:
                    state["kept"] = parameter.clone()
                parameter.copy_(average)
        self.training = not self.training

    def eval(self):
        self.exchange()

    train = backup_and_load_cache = clear_and_load_backup = eval


def loop():
    model, x = network(), torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    space = TargetSpace(model, x)
    optimizer = Averaging(model.parameters())
    space.attach(optimizer)

    def step():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
        optimizer.step()

    return model, space, optimizer, step, x


@pytest.mark.parametrize(("there", "back"), [("eval", "train"), ("backup_and_load_cache", "clear_and_load_backup")])
@pytest.mark.parametrize("gradients", [True, False])
def test_weights_are_those_of_the_moved_targets(there, back, gradients):
    model, space, optimizer, step, x = loop()
    for _ in range(3):
        step()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with torch.set_grad_enabled(gradients):
        getattr(optimizer, there)()
    twin = copy.deepcopy(model)
    TargetSpace(twin, x, state=space.state_dict())
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert not torch.equal(model[0].weight, before[0])
    with torch.set_grad_enabled(gradients):
        getattr(optimizer, back)()
    assert all(map(torch.equal, model.parameters(), before))


def test_training_goes_on_as_without_an_evaluation():
    model, _, optimizer, step, _ = loop()
    other, _, _, other_step, _ = loop()
    for number in range(5):
        step()
        other_step()
        if number == 2:
            optimizer.eval()
            optimizer.train()
    assert all(map(torch.equal, model.parameters(), other.parameters()))
