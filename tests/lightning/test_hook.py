"""Training steps through Lightning equal the plain loop: any optimizer, schedulers, accumulation, clipping."""

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

from tests.support.fits import CONFIG, Lit, Plain, assert_equal, build, data, fit, loader, trainer
from ts_lightning import TargetSpace

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=4, history_size=5),
}


def plain_loop(model, optimizer, batches, steps, space, clip=None, schedule=None):
    """The loop that the documentation of TargetSpace shows, with a closure for LBFGS."""
    for _, (x, y) in zip(range(steps), batches, strict=False):

        def closure(x=x, y=y):
            if space.stale:
                space.solve()
            loss = model.loss((x, y))
            optimizer.zero_grad()
            loss.backward()
            space.pullback()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
            return loss

        optimizer.step(closure)
        space.solve()
        if schedule is not None:
            schedule.step()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_equals_the_plain_loop_bit_for_bit(optimizer, norm):
    make = OPTIMIZERS[optimizer]
    model = build(optimizer=make, norm=norm)
    fit(model, max_epochs=2)
    plain = build(Plain, norm=norm)
    batches = [*loader(), *loader()]
    steps = make(plain.parameters())
    space = TargetSpace(plain, data()[0][:32], CONFIG)
    space.substitute(steps)
    plain_loop(plain, steps, batches, len(batches), space)
    assert_equal(model, plain)
    assert_equal(model.target_space_engine.targets, space.targets)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trains(optimizer):
    model = build(optimizer=OPTIMIZERS[optimizer])
    # LBFGS without a search along lines leaves a loss of 1e-6 by rounding alone
    fit(model, loader(64), max_epochs=75 if optimizer != "lbfgs" else 20)
    with torch.no_grad():
        assert float(model.loss(data())) < 0.85 * model.losses[0]


def test_a_scheduler_steps():
    class Scheduled(Lit):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": StepLR(optimizer, 2, 0.5), "interval": "step"},
            }

    model = build(Scheduled)
    run = fit(model, max_epochs=2)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)
    plain = build(Plain)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    space = TargetSpace(plain, data()[0][:32], CONFIG)
    space.substitute(optimizer)
    plain_loop(plain, optimizer, [*loader(), *loader()], 8, space, schedule=StepLR(optimizer, 2, 0.5))
    assert_equal(model, plain)


@pytest.mark.parametrize("norm", [None, 0.02])
def test_clipping_acts_on_targets(norm):
    seen = []

    class Watched(Lit):
        def on_before_optimizer_step(self, optimizer):
            parameters = [p for g in optimizer.param_groups for p in g["params"]]
            assert {id(p) for p in parameters} == {id(p) for p in self.target_space_engine.parameters()}
            seen.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters])))

        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            gradients = [p.grad for g in optimizer.param_groups for p in g["params"]]
            seen.append(float(torch.nn.utils.get_total_norm(gradients)))

    model = build(Watched, optimizer=OPTIMIZERS["sgd"])
    fit(model, gradient_clip_val=norm, max_epochs=1)
    before, after = seen[::2], seen[1::2]
    assert min(before) > 0.02
    assert after == pytest.approx(before if norm is None else [norm] * 4, rel=1e-3)
    plain = build(Plain)
    optimizer = OPTIMIZERS["sgd"](plain.parameters())
    space = TargetSpace(plain, data()[0][:32], CONFIG)
    space.substitute(optimizer)
    plain_loop(plain, optimizer, loader(), 4, space, clip=norm)
    assert_equal(model, plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_accumulated_batches_equal_a_large_one(optimizer):
    models = []
    for batch, accumulate in ((32, 1), (8, 4)):
        model = build(optimizer=OPTIMIZERS[optimizer], dtype=torch.float64)
        fit(model, loader(batch, dtype=torch.float64), accumulate_grad_batches=accumulate, max_epochs=3)
        models.append(model)
    for value, expected in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)


def test_weights_are_the_solved_ones_whenever_someone_looks():
    class Watched(Lit):
        def look(self):
            space = self.target_space_engine
            fresh = build(Plain)
            other = TargetSpace(fresh, data()[0][:32], CONFIG, state=space.state_dict())
            assert not other.stale
            assert_equal(self, fresh)

        def on_train_batch_start(self, batch, batch_idx):
            self.look()

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.look()

        def on_validation_start(self):
            if not self.trainer.sanity_checking:  # before training, when there is nothing but the user's weights
                self.look()

        def on_fit_end(self):
            self.look()

    fit(build(Watched), val=loader(), num_sanity_val_steps=1)


def test_a_skipped_step_changes_nothing():
    class Skipping(Lit):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) if batch_idx != 3 else None

    model = build(Skipping, optimizer=OPTIMIZERS["sgd"])
    fit(model, max_epochs=1)
    other = build(optimizer=OPTIMIZERS["sgd"])
    batches = [batch for i, batch in enumerate(loader()) if i != 3]
    plain = trainer(max_epochs=1)
    plain.fit(other, torch.utils.data.DataLoader(batches, batch_size=None))
    assert_equal(model, other)


def test_the_strategy_is_as_it_was_after_a_fit():
    run = fit(build())
    assert not {"optimizer_step", "teardown"} & set(run.strategy.__dict__)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_strategy_is_as_it_was_after_an_exception(error):
    class Failing(Lit):
        def training_step(self, batch, batch_idx):
            assert "optimizer_step" in self.trainer.strategy.__dict__
            if batch_idx == 2:
                raise error
            return super().training_step(batch, batch_idx)

    run = trainer()
    # Lightning exits on Ctrl-C
    with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
        run.fit(build(Failing), loader())
    assert not {"optimizer_step", "teardown"} & set(run.strategy.__dict__)
