"""Training steps that read the gradients of their backward passes: norms, clipping, surgery, inputs made of them."""

import math

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn import functional

from tests.lightning.test_held_steps import SETTINGS, Gan
from tests.support.fits import build, fit, loader
from ts_lightning import TargetSpaceMixin

ALL = ["generator.0", "generator.2", "critic.0", "critic.2"]


class Reading(Gan):
    """Two losses; ``after`` reads what the backward pass of the first gives."""

    def after(self, optimizer, second):
        raise NotImplementedError

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        made, real = self.critic(self(torch.randn(len(batch[0]), 4))), self.critic(batch[0])
        optimizer.zero_grad()
        self.manual_backward((made - real).square().mean(), retain_graph=True)
        self.after(optimizer, functional.softplus(real).mean())
        optimizer.step()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.002)


def trained(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


class Norm(Reading):
    def after(self, optimizer, second):
        norm = torch.stack([p.grad.norm() for p in self.parameters()]).norm()
        self.log("norm", norm)
        self.seen.append(bool(norm > 0))


class Number(Reading):
    def after(self, optimizer, second):
        self.seen.append(math.isfinite(math.log(sum(p.grad.norm().item() for p in self.parameters()))))


class Clipping(Reading):
    def after(self, optimizer, second):
        norm = torch.stack([p.grad.norm() for p in self.parameters()]).norm()
        if norm > 0.1:
            for p in self.parameters():
                p.grad.mul_(0.1 / norm)


class Groups(Reading):
    """Gradients of what the optimizer trains, which are targets by then."""

    def after(self, optimizer, second):
        norm = torch.stack([p.grad.norm() for p in trained(optimizer)]).norm()
        for p in trained(optimizer):
            p.grad.mul_(1 / (1 + norm))


class Surgery(Reading):
    """PCGrad: a gradient loses what conflicts with another one."""

    def after(self, optimizer, second):
        parameters = list(self.critic.parameters())
        one = torch.cat([p.grad.flatten() for p in parameters]).clone()
        for p in parameters:
            p.grad = None
        self.manual_backward(second)
        other = torch.cat([p.grad.flatten() for p in parameters])
        if one @ other < 0:
            one = one - (one @ other) * other / other.square().sum()
        for p, part in zip(parameters, (one + other).split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p).clone()


class SurgeryOfGroups(Reading):
    def after(self, optimizer, second):
        ones = [p.grad.clone() for p in trained(optimizer)]
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(second)
        for p, one in zip(trained(optimizer), ones, strict=True):
            p.grad = one if p.grad is None else one + p.grad


class Late(Reading):
    """A network that is called behind a number made of gradients of the other one."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.critic(batch[0]).square().mean())
        self.seen.append(sum(p.grad.norm().item() for p in self.critic.parameters()) > 0)
        self.manual_backward(self(torch.randn(len(batch[0]), 4)).square().mean())
        optimizer.step()


class Outside(Reading):
    """A weight that is no parameter of the module's, with an optimizer that it keeps; gradients add up in it."""

    def __init__(self):
        super().__init__()
        self.held = [torch.optim.SGD([nn.Parameter(torch.ones(()))], lr=0.1)]

    def after(self, optimizer, second):
        (other,) = trained(self.held[0])
        self.manual_backward(other * second.detach() * 0 + other)
        self.held[0].step()
        self.seen.append((float(other), float(other.grad)))
        self.seen.append(float(next(self.critic.parameters()).grad.norm()) > 0)


KINDS = [Norm, Number, Clipping, Groups, Surgery, SurgeryOfGroups, Late, Outside]


class Gradients(Callback):
    """Whether there were any when training started."""

    def on_train_start(self, trainer, module):
        self.found = [p.grad for p in module.parameters()]


def run(kind, **attributes):
    model = build(type(kind.__name__, (TargetSpaceMixin, kind), {"target_space": SETTINGS, **attributes}))
    torch.manual_seed(1)
    callback = Gradients()
    fit(model, loader(), callbacks=[callback])
    assert callback.found == [None] * len(callback.found)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_reads_gradients_needs_no_reference_forward(kind):
    """The fit asked for one, since there were no gradients."""
    model = run(kind)
    assert list(model.target_space_engine.targets) == ALL
    assert model.target_space_engine.left == []
    assert model.seen == run(kind, target_space=None).seen
    assert all(p.isfinite().all() for p in model.parameters())
    weights = [p.detach().clone() for p in model.parameters()]
    model.target_space_engine.solve()
    torch.testing.assert_close(list(model.parameters()), weights)


@pytest.mark.parametrize("kind", [Norm, Surgery])
def test_the_training_is_that_with_a_reference_forward(kind):
    def called(self, batch):
        self.critic(self(torch.randn(len(batch[0]), 4)))

    weights = [list(run(kind, **more).parameters()) for more in ({}, {"reference_forward": called})]
    torch.testing.assert_close(*weights)


class Adversarial(Reading):
    """Inputs that are made of gradients."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        x = batch[0].clone().requires_grad_()
        self.manual_backward(self.critic(x).square().mean())
        made = torch.cat([x.detach(), x.grad.sum(1, keepdim=True)], 1)
        self.manual_backward(self(made).square().mean())
        optimizer.step()


class Learned(Reading):
    """The same, of gradients of parameters."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.critic(batch[0]).square().mean())
        step = self.critic[2].bias.grad.expand(len(batch[0]), 1)
        self.manual_backward(self(torch.cat([batch[0], step], 1)).square().mean())
        optimizer.step()


@pytest.mark.parametrize("kind", [Adversarial, Learned])
def test_layers_behind_gradients_stay_in_weight_space(kind):
    model = run(kind)
    assert list(model.target_space_engine.targets) == ALL[2:]
    reasons = [(left.name, left.reason) for left in model.target_space_engine.left]
    assert reasons == [(name, "behind derivatives that forward computes") for name in ALL[:2]]
