"""Gradients of targets between the backward pass and the step, in training by two processes."""

import os
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tests.support.fits import CONFIG, Lit, build, data, fit, loader
from tests.support.processes import run
from tests.support.sam import SAM, ByHand
from tests.support.same_spaces import Habit, Subtracted, trained
from ts_lightning import ReferenceConfig


class Whole(ByHand):
    """With the whole targets in each process."""

    target_space = replace(CONFIG, reference=ReferenceConfig(size=32, shard=False))


def sharpness_aware(ranks):
    torch.set_num_threads(1)
    model = build(Whole, optimizer=lambda parameters: SAM(parameters, lr=0.1), dtype=torch.float64)
    samples = TensorDataset(*data(dtype=torch.float64))
    sampler = DistributedSampler(samples, ranks, int(os.environ.get("RANK", 0)), shuffle=False)
    batches = DataLoader(samples, 16 // ranks, sampler=sampler)
    strategy = "ddp" if ranks > 1 else "auto"
    fit(model, batches, strategy=strategy, devices=ranks, use_distributed_sampler=False)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_sharpness_aware_minimisation_by_two_steps_equals_one_process():
    (alone,) = run(sharpness_aware, 1)
    for found in run(sharpness_aware, 2, ranks=2):
        assert torch.allclose(found, alone, rtol=0, atol=1e-9)


class Reading(Lit):
    """Notes which targets have a gradient behind backward passes that processes do not average, and that they do."""

    def training_step(self, batch, batch_idx):
        targets = self.target_space_engine.targets.values()
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            with self.trainer.strategy.block_backward_sync():
                self.manual_backward(self.loss(batch) / 2)
            self.read.append([target.grad is not None for target in targets])
            self.manual_backward(self.loss(batch) / 2)
            self.read.append([target.grad is not None for target in targets])
            optimizer.step()
            return None
        return self.loss(batch)

    def on_after_backward(self):
        if self.automatic_optimization:
            targets = self.target_space_engine.targets.values()
            self.read.append([target.grad is not None for target in targets])


def read(automatic, shard):
    torch.set_num_threads(1)
    model = build(Reading)
    model.target_space = replace(CONFIG, reference=replace(CONFIG.reference, shard=shard))
    model.automatic_optimization, model.read = automatic, []
    options = {"accumulate_grad_batches": 2} if automatic else {}
    fit(model, loader(8), strategy="ddp", devices=2, max_epochs=1, **options)
    return model.read


@pytest.mark.parametrize("shard", [True, False])
@pytest.mark.parametrize("automatic", [True, False])
def test_targets_have_their_gradient_behind_the_backward_pass_that_averages_it(automatic, shard):
    for found in run(read, automatic, shard, ranks=2):
        assert found[:2] == [[False] * 3, [True] * 3]


class Clamped(Habit):
    """By hand: steps by clipped gradients, behind which the weights are clamped."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        self.clip_gradients(optimizer, 0.1, "norm")
        optimizer.step()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.clamp_(-0.3, 0.3)


class Moved(Clamped, Subtracted):
    """Gradients at weights that are moved, and put back ahead of the clipping."""

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.backward_elsewhere(optimizer, batch)
        self.clip_gradients(optimizer, 0.1, "norm")
        optimizer.step()


def in_both_spaces(cls):
    torch.set_num_threads(1)
    return [trained(cls, space, strategy="ddp", devices=2) for space in ("target", "weight")]


@pytest.mark.parametrize("cls", [Clamped, Moved])
def test_gradients_at_written_weights_are_clipped(cls):
    """``clip_gradients`` was given Lightning's wrapper of the optimizer, and found no gradients of targets yet."""
    for target, weight in run(in_both_spaces, cls, ranks=2):
        torch.testing.assert_close(target, weight)
