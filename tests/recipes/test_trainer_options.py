"""Recipes with options of the Trainer that replace their samplers, or that their own defaults would not go with."""

import pytest

from tests.support.runs import done, mistake
from ts_lightning.recipes import cnn_images, lstm_nlp, rnn_bits, two_spirals

SMALL = {
    "two_spirals": (two_spirals, ["--data.steps_per_epoch", "3"]),
    "cnn_images": (cnn_images, ["--data.batch_size", "20"]),
    "rnn_bits": (rnn_bits, ["--data.delay", "2"]),
    "lstm_nlp": (lstm_nlp, ["--model.units", "4", "--model.reference_steps", "5"]),
}


@pytest.mark.parametrize(("recipe", "options"), SMALL.values(), ids=SMALL)
def test_one_batch_is_overfitted(recipe, options, tmp_path):
    """The Trainer then takes a sampler of its own, of which two_spirals got single points in place of all."""
    overfit = ["--trainer.overfit_batches", "1", "--trainer.max_epochs", "2"]
    ended = done(recipe.main, *overfit, *options, "--out", tmp_path / "run", drawn=False)
    assert ", 2 steps" in ended.out


@pytest.mark.parametrize(("share", "steps"), [("0.5", 0), ("1.0", 6)])
def test_a_share_of_the_batches_is_overfitted_or_refused(share, steps, tmp_path):
    """Validation of the two spirals is one batch, of which the Trainer takes no half."""
    options = ["--trainer.overfit_batches", share, "--trainer.max_epochs", "2", *SMALL["two_spirals"][1]]
    if steps:
        out = done(two_spirals.main, *options, "--out", tmp_path / "run", drawn=False).out
        assert f", {steps} steps" in out
        assert "SpiralsDataModule, 3 training batches" in out  # and not as many samples
    else:
        assert "0.5 of the `val_dataloader` but 0.5 * 1 < 1" in mistake(two_spirals.main, *options)


@pytest.mark.parametrize(("recipe", "options"), SMALL.values(), ids=SMALL)
def test_defaults_give_way_to_a_bare_trainer(recipe, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done(recipe.main, "--trainer.barebones", "true", "--trainer.max_steps", "1", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["log_every_n_steps", "num_sanity_val_steps"])
def test_what_was_given_beside_a_bare_trainer_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.yaml").write_text("trainer: {barebones: true}")
    error = mistake(two_spirals.main, "fit", "--config", "bare.yaml", f"--trainer.{name}", "3")
    assert f"--trainer: `Trainer(barebones=True, {name}=3)` was passed." in error
