"""Lightning's callbacks and Trainer options find what they find in weight space."""

from functools import partial

import pytest
import torch
from lightning.pytorch import Trainer, callbacks

from tests.support.fits import Lit, assert_equal, assert_solved, build, data, fit, from_2_6, loader, trainer


@from_2_6  # before, the finder forgot the rate that it found, and did not go back in the data
def test_the_learning_rate_finder_leaves_no_trace(tmp_path):
    finder = callbacks.LearningRateFinder(num_training_steps=24, early_stop_threshold=None)
    model = build()
    model.lr = 0.02
    run = fit(model, loader(4), callbacks=[finder], default_root_dir=tmp_path)
    losses = finder.optimal_lr.results["loss"]
    assert len(losses) == 24
    assert losses[-1] != losses[0]
    assert run.optimizers[0].param_groups[0]["lr"] == model.lr != 0.02
    other = build(optimizer=lambda p: torch.optim.Adam(p, lr=model.lr))
    fit(other, loader(4))
    assert model.losses[24:] == other.losses
    assert_equal(model, other)


def test_the_batch_size_finder_leaves_no_trace(tmp_path):
    class Sized(Lit):
        batch_size = 4

        def train_dataloader(self):
            return loader(self.batch_size)

        def val_dataloader(self):
            return loader(64)

    model = build(Sized)
    trainer(callbacks=[callbacks.BatchSizeFinder(max_trials=2, steps_per_trial=2)], default_root_dir=tmp_path).fit(
        model
    )
    assert len(model.losses) > 2 * 64 / model.batch_size
    other = build()
    fit(other, loader(model.batch_size))
    assert_equal(model, other)
    assert_solved(model)


@pytest.mark.parametrize("norm", [False, True])
def test_stochastic_weight_averaging(norm):
    model = build(norm=norm)
    averaging = callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2)
    fit(model, callbacks=[averaging], max_epochs=6)
    average = dict(averaging._average_model.named_parameters())
    for layer in model.target_space_engine.layers:
        assert torch.equal(layer.module.weight, average[f"{layer.name}.weight"])
    assert model.target_space_engine.stale
    with pytest.raises(AssertionError):
        assert_solved(model)  # an average of solutions is none


@from_2_6
def test_an_exponential_moving_average():
    """Averages are seen in validation and stay at the end; training goes on from the solved weights."""

    class Watched(Lit):
        def on_train_epoch_end(self):
            assert_solved(self)

        def validation_step(self, batch, batch_idx):
            with pytest.raises(AssertionError):
                assert_solved(self)
            super().validation_step(batch, batch_idx)

    model = build(Watched, norm=True)
    averaging = callbacks.EMAWeightAveraging(decay=0.5) if hasattr(callbacks, "EMAWeightAveraging") else None
    fit(model, val=loader(64), callbacks=[averaging or callbacks.WeightAveraging()], max_epochs=4)
    with pytest.raises(AssertionError):
        assert_solved(model)
    torch.testing.assert_close(model.validated[-1], model.eval()(data()[0]).detach())


def test_validation_before_training_leaves_nothing_behind():
    """Its inference tensors must not enter a later solve."""
    model = build(norm=True)
    run = trainer()
    run.validate(model, loader(64), verbose=False)
    run.fit(model, loader(), loader(64))
    run.validate(model, loader(64), verbose=False)
    run.fit_loop.max_epochs = 4
    run.fit(model, loader())
    assert_solved(model)


@pytest.mark.parametrize(
    "options", [{"overfit_batches": 1}, {"num_sanity_val_steps": 2}, {"inference_mode": False}, {"fast_dev_run": 2}]
)
def test_trainer_options(options):
    model = build()
    fit(model, val=loader(), **options)
    assert_solved(model)


def test_barebones():
    model = build()
    Trainer(max_epochs=1, barebones=True, accelerator="cpu", devices=1).fit(model, loader())
    assert_solved(model)


def test_optimizers_given_on_the_instance():
    """As LightningCLI does."""
    model = build()
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=0.1)
    run = fit(model)
    trained = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert trained == {id(target) for target in model.target_space_engine.targets.values()}
    assert_solved(model)


def test_weights_changed_by_hand_are_solved_again_and_said():
    class Clamping(Lit):
        def on_train_batch_start(self, batch, batch_idx):
            with torch.no_grad():
                self.net[2].weight.clamp_(-0.01, 0.01)

    model = build(Clamping)
    with pytest.warns(UserWarning, match=r"weights of net\.2 were changed since the last optimizer step.*exclude"):
        fit(model)
    assert float(model.net[2].weight.detach().abs().max()) > 0.01


def muon(parameters):
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("came with torch 2.9")
    return torch.optim.Muon([p for p in parameters if p.dim() == 2], lr=0.01)


KINDS = {
    "fused": partial(torch.optim.AdamW, lr=0.01, fused=True),
    "foreach": partial(torch.optim.AdamW, lr=0.01, foreach=True),
    "muon": muon,
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_kinds_of_optimizers(make):
    model = build(optimizer=make)
    fit(model, max_epochs=20)
    with torch.no_grad():
        assert float(model.loss(data())) < 0.3 * model.losses[0]
    assert_solved(model)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_early_stopping_sees_a_loss_that_is_not_finite(at):
    """Also where steps follow in the same epoch."""

    class Diverging(Lit):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx) * (float("nan") if batch_idx == at else 1.0)
            self.log("loss", loss)
            return loss

    stopping = callbacks.EarlyStopping("loss", check_finite=True, check_on_train_epoch_end=True)
    model = build(Diverging)
    with pytest.warns(UserWarning, match="The weights are NaN to the end of the epoch"):
        run = fit(model, callbacks=[stopping])
    assert run.should_stop
    assert len(model.losses) == 4
