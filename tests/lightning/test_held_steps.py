"""Training steps that make their own optimizer steps, run for the calls that they make: GANs, fast weights."""

import copy
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.nn import functional

from tests.support.fits import assert_equal, build, fit, loader
from tests.support.sam import SAM
from ts_lightning import TargetSpaceConfig, TargetSpaceMixin

SETTINGS = TargetSpaceConfig(ridge=0.1)


class Gan(LightningModule):
    """Noise in forward, data in the critic; the generated samples serve both steps."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        self.seen = []

    def forward(self, noise):
        return self.generator(noise)

    def training_step(self, batch, batch_idx):
        one, two = self.optimizers()
        fake = self(torch.randn(len(batch[0]), 4))
        self.toggle_optimizer(two)
        scores = self.critic(torch.cat([batch[0], fake.detach()]))
        truth = torch.cat([torch.ones_like(scores[: len(fake)]), torch.zeros_like(scores[: len(fake)])])
        two.zero_grad()
        self.manual_backward(functional.binary_cross_entropy_with_logits(scores, truth))
        self.clip_gradients(two, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        two.step()
        self.untoggle_optimizer(two)
        self.toggle_optimizer(one)
        scores = self.critic(fake)
        one.zero_grad()
        self.manual_backward(functional.binary_cross_entropy_with_logits(scores, torch.ones_like(scores)))
        one.step()
        self.untoggle_optimizer(one)
        for schedule in self.lr_schedulers():
            schedule.step()
        self.log("loss", scores.mean())

    def configure_optimizers(self):
        optimizers = [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.generator, self.critic)]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 3) for optimizer in optimizers]


class Raw(Gan):
    """Optimizers, gradients and clipping by PyTorch alone."""

    def training_step(self, batch, batch_idx):
        one, two = self.optimizers(use_pl_optimizer=False)
        fake = self(torch.randn(len(batch[0]), 4))
        for optimizer, sign, made in ((two, 1, fake.detach()), (one, -1, fake)):
            loss = (
                sign * functional.softplus(self.critic(made)).mean()
                + functional.softplus(-self.critic(batch[0])).mean()
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()


class Closures(Gan):
    def training_step(self, batch, batch_idx):
        noise = torch.randn(len(batch[0]), 4)
        for optimizer in self.optimizers():

            def closure(optimizer=optimizer):
                optimizer.zero_grad()
                loss = (self.critic(self(noise)) - self.critic(batch[0])).square().mean()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)


class Aware(Gan):
    """A sharpness-aware optimizer, whose two steps have names of their own."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        noise = torch.randn(len(batch[0]), 4)
        for step in (optimizer.first_step, optimizer.second_step):
            optimizer.zero_grad()
            self.manual_backward((self.critic(self(noise)) - self.critic(batch[0])).square().mean())
            step()

    def configure_optimizers(self):
        return SAM(self.parameters(), lr=0.01)


class Automatic(Gan):
    """Steps of its own beside those of the Trainer, which gets no loss."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = True

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        (self.critic(self(torch.randn(len(batch[0]), 4))) - self.critic(batch[0])).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Setting(Automatic):
    """A rate that falls, moments that start anew, and a group that comes later, by hand."""

    def __init__(self):
        super().__init__()
        self.later = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        if len(optimizer.param_groups) == 1:
            optimizer.add_param_group({"params": [self.later]})
        super().training_step(batch, batch_idx)
        for group in optimizer.param_groups:
            group["lr"] *= 0.9
        for state in optimizer.state.values():
            state.clear()

    def configure_optimizers(self):
        return torch.optim.Adam([*self.generator.parameters(), *self.critic.parameters()], lr=0.01)


class Agent:
    def __init__(self, parameter):
        self.inner = {"optimizers": [torch.optim.Adam([parameter], lr=0.1)]}
        self.schedule = torch.optim.lr_scheduler.StepLR(self.inner["optimizers"][0], 1)


class Keeping(Automatic):
    """A weight of the loss with an optimizer and a schedule that no configure_optimizers() returns."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.agent = Agent(self.weight)

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        optimizer = self.agent.inner["optimizers"][0]
        optimizer.zero_grad()
        (self.weight * self.critic(batch[0]).detach().mean()).backward()
        optimizer.step()
        self.agent.schedule.step()
        self.seen.append((self.agent.schedule.last_epoch, len(optimizer.state), self.weight.isfinite().item()))


class Scaling(Automatic):
    """A gradient scaler of the module's own, of which each step has to follow its backward pass."""

    def __init__(self):
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.scaler.scale((self.critic(self(torch.randn(len(batch[0]), 4))) - self.critic(batch[0])).mean()).backward()
        self.scaler.unscale_(optimizer)
        self.scaler.step(optimizer)
        self.scaler.update()
        self.seen.append(self.scaler.get_scale())


KINDS = [Gan, Raw, Closures, Aware, Automatic, Setting, Keeping, Scaling]


class Log(Callback):
    """Batches, random numbers, optimizers' groups and the count of steps at the start of every batch."""

    def __init__(self):
        self.rows = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        position = np.random.get_state()[2]  # noqa: NPY002 (the global state is meant)
        random_state = (torch.get_rng_state().sum(), position, random.getstate()[1][-1])
        grads = [p.grad is None for p in module.parameters()] if trainer.global_step == 0 else []
        flags = [p.requires_grad for p in module.parameters()]
        self.rows.append((batch[0].sum(), *map(int, random_state), trainer.global_step, rates, flags, grads))


def trained(kind, **attributes):
    model = build(type(kind.__name__, (TargetSpaceMixin, kind), {"target_space": SETTINGS, **attributes}))
    log = Log()
    torch.manual_seed(1)
    run = fit(model, loader(shuffle=True), callbacks=[log])
    return model, run, log.rows


@pytest.mark.parametrize("kind", KINDS)
def test_both_networks_are_solved_without_a_method_of_the_users(kind):
    """The fit ended with an error: forward takes noise, and training_step was not run."""
    model, run, rows = trained(kind)
    assert list(model.target_space_engine.targets) == ["generator.0", "generator.2", "critic.0", "critic.2"]
    weights = [p.detach().clone() for p in model.parameters()]
    model.target_space_engine.solve()
    torch.testing.assert_close(list(model.parameters()), weights)
    plain, plain_run, plain_rows = trained(kind, target_space=None)
    assert plain.target_space_engine is None
    assert rows == plain_rows
    assert run.global_step == plain_run.global_step
    assert model.seen == plain.seen


def test_the_call_is_that_of_a_reference_forward_with_the_same_calls():
    def called(self, batch):
        fake = self(torch.randn(len(batch[0]), 4))
        self.critic(torch.cat([batch[0], fake.detach()]))
        self.critic(fake)

    assert_equal(trained(Gan)[0], trained(Gan, reference_forward=called)[0])


def test_no_optimizer_and_no_schedule_has_moved_when_training_starts():
    class First(Callback):
        def on_train_start(self, trainer, module):
            assert not any(optimizer.state for optimizer in trainer.optimizers)
            assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [0, 0]
            assert all("step" not in vars(optimizer) for optimizer in trainer.strategy._lightning_optimizers)
            assert not {"manual_backward", "toggle_optimizer", "clip_gradients"} & vars(module).keys()

    model = build(type("Lit", (TargetSpaceMixin, Gan), {}))
    fit(model, max_epochs=1, callbacks=[First()])


def test_steps_are_free_again_where_the_run_failed():
    class Failing(TargetSpaceMixin, Gan):
        def training_step(self, batch, batch_idx):
            raise ZeroDivisionError

    model = build(Failing)
    with suppress(Exception):
        fit(model)
    assert "manual_backward" not in vars(model)


class Fast(Automatic):
    """First-order fast weights, whose gradients are added to the module's own, cleared before."""

    def training_step(self, batch, batch_idx):
        self.critic.zero_grad()
        for half in batch[0].chunk(2):
            start = self.critic(half).mean()
            fast = copy.deepcopy(self.critic)
            inner = torch.optim.SGD(fast.parameters(), lr=0.1)
            (fast(half) - start.detach()).square().mean().backward()
            inner.step()
            inner.zero_grad()
            (fast(half) - start).square().mean().backward()
            for p, q in zip(self.critic.parameters(), fast.parameters(), strict=True):
                p.grad += q.grad
        self.optimizers().step()
        self.log("start", start)


def test_gradients_that_are_cleared_ahead_of_a_backward_pass_are_there_behind_it():
    """As in first-order MAML: the start failed, since there was none."""
    model, _, rows = trained(Fast)
    assert list(model.target_space_engine.targets) == ["critic.0", "critic.2"]
    assert rows == trained(Fast, target_space=None)[2]
