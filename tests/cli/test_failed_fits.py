"""A fit that ends with an error leaves what it has reached, and a checkpoint to go on from."""

import json
import shlex

import pytest
import torch
from torch import nn

from tests.cli.solved import Solved
from tests.cli.test_compare import within_this_process
from tests.support.runs import files, program
from ts_lightning import TargetSpaceError
from ts_lightning.cli.main import main

SHORT = ["--trainer.max_epochs", "3", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


class Failing(Solved):
    """Fails in the second epoch, by an error, or by a loss that is NaN if the learning rate is above 1; has a mask."""

    def __init__(self, error: bool = False, lr: float = 0.02):
        super().__init__(lr=lr)
        self.error = error
        self.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if self.current_epoch == 1 and self.error:
            raise ValueError("no such luck")
        return loss * float("nan") if self.current_epoch == 1 and self.lr > 1 else loss


MODULE = ["--model", f"{__name__}.Failing", "--data", "tests.cli.plain.Points", "--data.batch_size", "16"]


def fitted(out, *options):
    return program(main, "fit", *MODULE, *SHORT, *options, "--out", out)


@pytest.mark.parametrize("by", ["error", "nan"])
def test_it_leaves_a_report_and_the_last_checkpoint_with_finite_weights(by, tmp_path):
    folder = tmp_path / "a run"
    if by == "error":
        with pytest.raises(ValueError, match="no such luck"):
            fitted(folder, "--model.error", "true")
    else:
        ended = fitted(folder, "--model.lr", "2")
        assert ended.code == 2
        assert f"repeat          ts-lightning fit --config {shlex.quote(str(folder / 'config.yaml'))}" in ended.out
        assert "target space: failed after" in ended.out
    assert {"summary.json", "report.html", "figure.png", "metrics.csv", "last.ckpt"} <= files(folder)
    assert json.loads((folder / "summary.json").read_text())["failed"]
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert all(value.isfinite().all() for name, value in checkpoint["state_dict"].items() if name != "mask")


def test_one_that_measured_nothing_leaves_no_report(tmp_path):
    ended = fitted(tmp_path / "run", "--target_space.layers", "[nothing]")
    assert ended.code == 2
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_that_fails_is_not_chosen_and_ends_no_comparison(tmp_path):
    with within_this_process() as trained:
        options = ["--lrs", "0.01", "2", "--seeds", "5", "5", "--out", tmp_path / "out"]
        ended = program(main, "compare", *MODULE, *SHORT, *options, drawn=False)
    assert ended.code == 0, str(ended)
    assert len(trained) == 4
    assert "Learning rates: 0.01 in target space" in ended.out
    with within_this_process() as trained:
        options = ["--lrs", "2", "--seed_everything", "5", "--out", tmp_path / "none"]
        ended = program(main, "compare", *MODULE, *SHORT, *options, drawn=False)
    assert ended.code == 2
    assert [run[-run[::-1].index("--seed_everything")] for run in trained] == ["5", "5"]
    assert "--lrs: found none that trains in target space" in ended.err


class FailingEarly(Failing):
    """Fails ahead of the first validation, where the learning rate is above 1."""

    def training_step(self, batch, batch_idx):
        if self.global_step == 2 and self.lr > 1:
            raise TargetSpaceError("found NaN")
        return super().training_step(batch, batch_idx)


def test_a_learning_rate_that_fails_before_the_metric_comes_ends_no_comparison(tmp_path):
    """The metric's name was said to be wrong."""
    model = ["--model", f"{__name__}.FailingEarly", *MODULE[2:], *SHORT, "--trainer.log_every_n_steps", "1"]
    options = ["--metric", "test/accuracy", "--lrs", "0.01", "2", "--out", tmp_path / "out"]
    with within_this_process() as trained:
        ended = program(main, "compare", *model, *options, drawn=False)
    assert ended.code == 0, str(ended)
    assert len(trained) == 4


def test_a_metric_that_there_is_not_ends_a_comparison_of_learning_rates_with_its_first_run(tmp_path):
    options = ["--metric", "acuracy", "--lrs", "0.01", "0.02", "--out", tmp_path / "out"]
    with within_this_process() as trained:
        ended = program(main, "compare", *MODULE, *SHORT, *options, drawn=False)
    assert ended.code == 2
    assert len(trained) == 1
    assert "metric 'acuracy': found test/accuracy" in ended.err


def test_a_learning_rate_that_fails_before_anything_is_logged_ends_no_comparison(tmp_path):
    """Lightning logs every 50 steps; the comparison ended as for a mistake in the options."""
    model = ["--model", f"{__name__}.FailingEarly", *MODULE[2:], *SHORT]
    with within_this_process() as trained:
        ended = program(main, "compare", *model, "--lrs", "0.01", "2", "--out", tmp_path / "out", drawn=False)
        mistaken = program(main, "compare", *model, "--lrs", "2", "3", "--out", tmp_path / "none", drawn=False)
    assert ended.code == 0, str(ended)
    assert "Learning rates: 0.01 in target space" in ended.out
    assert "run 4 of 4" in ended.out
    assert mistaken.code == 2
    assert len(trained) == 5  # one that fails at once with the smallest rate is taken for a mistake


class FailingSeed(Solved):
    """Fails with seed 7, in target space alone: ahead of the first validation, or behind it."""

    def __init__(self, early: bool = False, lr: float = 0.02):
        super().__init__(lr=lr)
        self.early = early

    def training_step(self, batch, batch_idx):
        if torch.initial_seed() == 7 and self.target_space is not None and self.global_step == (2 if self.early else 5):
            raise TargetSpaceError("found NaN")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("early", ["true", "false"])
def test_a_later_seed_that_fails_is_left_out_and_said(early, tmp_path):
    """The runs of the other seeds were lost."""
    model = ["--model", f"{__name__}.FailingSeed", "--model.early", early, *MODULE[2:], *SHORT]
    with within_this_process() as trained:
        ended = program(main, "compare", *model, "--seeds", "5", "7", "8", "--out", tmp_path / "out", drawn=False)
    assert ended.code == 0, str(ended)
    assert len(trained) == 6
    said = "Left out: seed 7, with which training in target space failed."
    assert said in " ".join(ended.out.split())
    assert "both spaces, 2 seeds" in ended.out


@pytest.mark.parametrize("given", [("true", "0"), ("false", "0"), ("3", "3")])
def test_a_seed_that_is_left_to_lightning_is_0(given, tmp_path):
    """Lightning takes 0 for true; the comparison had 1."""
    setting, seed = given
    with within_this_process() as trained:
        options = ["--seed_everything", setting, "--trainer.max_epochs", "1", "--out", tmp_path / "out"]
        ended = program(main, "compare", *MODULE, *SHORT[2:], *options, drawn=False)
    assert ended.code == 0, str(ended)
    assert [run[-run[::-1].index("--seed_everything")] for run in trained] == [seed, seed]
