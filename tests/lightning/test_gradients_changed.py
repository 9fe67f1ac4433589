"""Gradients that users clear, clip and multiply, of targets and of weights."""

import pytest
import torch
from lightning.pytorch import Callback

from tests.support.fits import Lit, assert_equal, build, fit

SGD = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)}


def norm(gradients):
    return float(torch.stack([g.norm() for g in gradients if g is not None]).norm())


class Accumulating(Lit):
    """Steps at every second batch, and clears by hand; ``clear`` is given the optimizer that Lightning passes."""

    clear = staticmethod(lambda optimizer: optimizer.optimizer.zero_grad())

    def optimizer_zero_grad(self, *args):
        pass

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        closure()
        if batch_idx % 2:
            optimizer.step()
            self.clear(optimizer)


def test_zero_grad_of_the_optimizer_that_lightning_passes():
    models = [build(Accumulating, **SGD), build(Accumulating, **SGD)]
    models[1].clear = lambda optimizer: optimizer.zero_grad()
    for model in models:
        fit(model)
    assert_equal(models[1], models[0])


class Manual(Lit):
    """Manual optimisation, whose gradients ``clear`` clears."""

    automatic_optimization = False

    def clear(self, optimizer):
        optimizer.zero_grad()

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.clear(optimizer)
        self.manual_backward(loss)
        optimizer.step()


class Cached(Manual):
    """Keeps the optimizer of before training."""

    def on_fit_start(self):
        self.kept = [self.optimizers()]

    def clear(self, optimizer):
        self.kept[0].zero_grad()


class ByNone(Manual):
    """Clears gradient by gradient."""

    def clear(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None


class ByZero(Manual):
    """Writes zeros to them."""

    def clear(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.detach_()
                    parameter.grad.zero_()


@pytest.mark.parametrize("cls", [Cached, ByNone, ByZero])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_ways_to_clear_gradients_are_as_good(cls, batch_norm):
    models = [build(one, norm=batch_norm, **SGD) for one in (Manual, cls)]
    for model in models:
        fit(model)
    for found, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_add_param_group_leaves_solved_weights_out(wrapped):
    class Adding(Lit):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                optimizer = self.optimizers(use_pl_optimizer=wrapped)
                optimizer.add_param_group({"params": list(self.net[0].parameters()), "lr": 0.1})

    model = build(Adding, **SGD)
    with pytest.warns(UserWarning, match="Left out of a new parameter group: the weights of net.0"):
        run = fit(model)
    assert [len(group["params"]) for group in run.optimizers[0].param_groups] == [3]


TOUCHES = {
    "none": lambda model: None,
    "in place": lambda model: [p.grad.nan_to_num_() for p in model.parameters()],
    "data": lambda model: [p.grad.data.mul_(1.0) for p in model.parameters()],
    "another": lambda model: [setattr(p, "grad", p.grad.clone()) for p in model.parameters()],
}


class Clipping(Lit):
    """Clips what the optimizer steps to ``limit`` by ``algorithm``, and then touches the gradients of weights."""

    limit, algorithm, touch = 1e-3, "norm", "none"

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, self.limit, self.algorithm)
        TOUCHES[self.touch](self)

    def on_train_batch_end(self, *args):
        self.stepped = [p.grad.clone() for group in self.optimizers().param_groups for p in group["params"]]


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("touch", [name for name in TOUCHES if name != "none"])
def test_gradients_stay_clipped_when_those_of_weights_are_touched(touch, batch_norm):
    models = [build(Clipping, norm=batch_norm, **SGD) for _ in range(2)]
    models[1].touch = touch
    for model in models:
        fit(model, max_epochs=1)
    assert norm(models[1].stepped) == pytest.approx(1e-3, rel=1e-3)
    for found, expected in zip(models[1].stepped, models[0].stepped, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-8)


def test_gradients_clipped_by_value_stay_when_those_of_weights_are_touched():
    model = build(Clipping, **SGD)
    model.algorithm, model.touch = "value", "in place"
    with pytest.warns(UserWarning, match="changed after those of what is trained, which are left as they are"):
        fit(model, max_epochs=1)
    assert max(float(g.abs().max()) for g in model.stepped) <= 1.001e-3


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("hook", ["on_after_backward", "on_before_optimizer_step"])
def test_the_models_gradients_are_multiplied_once(hook, batch_norm):
    def half(self, *args):
        for parameter in self.parameters():
            parameter.grad.mul_(0.5)

    models = [build(Lit, norm=batch_norm, optimizer=lambda p, r=rate: torch.optim.SGD(p, lr=r)) for rate in (0.05, 0.1)]
    models[1].__class__ = type("Half", (Lit,), {hook: half})
    for model in models:
        fit(model)
    for found, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


class Zeroing(Callback):
    """Zeros what the optimizer has, and touches weights."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.zero_()
        for parameter in module.parameters():
            parameter.grad.mul_(1.0)


def test_zeroed_gradients_stay_zero():
    model = build(Lit, **SGD)
    started = []
    model.on_train_batch_start = lambda *args: started.append([p.detach().clone() for p in model.parameters()])
    fit(model, callbacks=[Zeroing()])
    for found, expected in zip(model.parameters(), started[0], strict=True):
        assert torch.equal(found, expected)


def test_a_factor_on_targets_between_two_backward_passes_is_one_on_weights():
    class Twice(Manual):
        of_weights = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            for parameter in self.parameters() if self.of_weights else optimizer.param_groups[0]["params"]:
                parameter.grad.mul_(0.25)
            self.manual_backward(self.loss([part[:8] for part in batch]))
            optimizer.step()

    models = [build(Twice, **SGD) for _ in range(2)]
    models[0].of_weights = True
    for model in models:
        fit(model)
    for found, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


HALVED = {
    "in place": lambda p: p.grad.mul_(0.5),
    "another": lambda p: setattr(p, "grad", 0.5 * p.grad),
}


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("way", HALVED)
def test_gradients_halved_after_every_accumulated_batch_count_once(way, penalty):
    """What a hook put in the place of a gradient counted twice, and so did a target's behind a ``penalty`` on it."""

    class Halved(Lit):
        halves = True

        def training_step(self, batch, batch_idx):
            targets = () if self.target_space_engine is None else self.target_space_engine.targets.values()
            return self.loss(batch) + penalty * sum(target.square().sum() for target in targets)

        def on_after_backward(self):
            for parameter in self.optimizers().param_groups[0]["params"]:
                if self.halves:
                    HALVED[way](parameter)

        def on_before_optimizer_step(self, optimizer):
            self.steps.append([p.grad.clone() for group in optimizer.param_groups for p in group["params"]])

    models = [build(Halved, norm=True, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)) for _ in range(2)]
    models[0].halves = False
    for accumulated, model in enumerate(models, 1):
        model.steps = []
        fit(model, max_epochs=1, accumulate_grad_batches=accumulated)
    first, second = models[0].steps[:2]
    for found, one, other in zip(models[1].steps[0], first, second, strict=True):
        torch.testing.assert_close(found, (0.25 * one + 0.5 * other) / 2, rtol=1e-4, atol=1e-6)


def test_a_gradient_that_the_second_backward_pass_adds_stays():
    """Of a norm that the first one reached by the reference batch alone."""

    class Skipping(Manual):
        twice = skip = False

        def forward(self, x):
            return self.net[2:](self.net[0](x)) if self.skip else self.net(x)

        def training_step(self, batch, batch_idx):
            self.skip = True
            losses = [self.loss(batch)]
            self.skip = False
            losses.append(self.loss(batch))
            for loss in losses if self.twice else [sum(losses)]:
                self.manual_backward(loss)
            self.found = [p.grad.clone() for p in self.optimizers().param_groups[0]["params"]]
            self.optimizers().step()

    models = [build(Skipping, norm=True, **SGD) for _ in range(2)]
    models[1].twice = True
    for model in models:
        fit(model, max_steps=1)
    for found, expected in zip(models[1].found, models[0].found, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
