"""Optimizers whose targets no gradient reaches say so."""

import pytest
import torch
from torch import nn

from tests.support.fits import Plain, data, fit, loader
from ts_lightning import TargetSpace, TargetSpaceMixin

SAID = r"Adam has made 8 steps, and no gradient has reached the weights that its targets give \(net\.0, "


class Lit(TargetSpaceMixin, Plain):
    def __init__(self, way):
        super().__init__(lambda parameters: torch.optim.Adam(parameters, lr=0.01))
        self.automatic_optimization = False
        self.way = way

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.losses.append(float(loss.detach()))
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        if self.way == "grad of the optimizer's":
            self.put(owned, torch.autograd.grad(loss, owned, allow_unused=True))
        elif self.way == "backward of the optimizer's":
            self.manual_backward(loss, inputs=owned)
        elif self.way == "grad of the model's":
            own = list(self.parameters())
            self.put(own, torch.autograd.grad(loss, own))
        else:
            self.manual_backward(loss, inputs=list(self.parameters()))
        optimizer.step()

    def put(self, parameters, gradients):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient


@pytest.mark.parametrize("what", ["grad", "backward"])
def test_gradients_that_are_asked_for_targets(what):
    with pytest.warns(UserWarning, match=SAID) as said:
        fit(Lit(f"{what} of the optimizer's"), loader(8), max_epochs=2)
    assert len([one for one in said if "no gradient has reached" in str(one.message)]) == 1


@pytest.mark.parametrize("what", ["grad", "backward"])
def test_gradients_that_are_asked_for_the_models_parameters_train(what, recwarn):
    model = Lit(f"{what} of the model's")
    fit(model, loader(8), max_epochs=4)
    assert model.losses[-1] < 0.9 * model.losses[0]
    assert not [one for one in recwarn if "no gradient has reached" in str(one.message)]


def test_in_a_loop_of_ones_own():
    model, (x, y) = Plain().net, data()
    space = TargetSpace(model, x)
    optimizer = torch.optim.Adam(space.parameters())

    def step():
        nn.functional.cross_entropy(model(x), y).backward(inputs=list(space.parameters()))
        space.pullback()
        optimizer.step()
        space.solve()

    for _ in range(7):
        step()
    with pytest.warns(UserWarning, match="Adam has made 8 steps, and no gradient"):
        step()


def test_layers_that_are_frozen_for_a_while_are_none(recwarn):
    model = Plain().net
    x, y = data()
    space = TargetSpace(model, x)
    optimizer = torch.optim.Adam(space.parameters())
    for step in range(12):
        for target in space.targets.values():
            target.requires_grad_(step >= 10)
        if step >= 10:
            nn.functional.cross_entropy(model(x), y).backward()
        space.pullback()
        optimizer.step()
        space.solve()
    assert not [one for one in recwarn if "no gradient has reached" in str(one.message)]
