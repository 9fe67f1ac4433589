"""The recipes as programs: what a run leaves, that it can be repeated, and how it ends on a mistake or Ctrl-C."""

import json
import re
import shlex
import sys

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml

from tests.support.runs import FILES, done, files, metrics, mistake, pictures, program
from ts_lightning.recipes import cnn_images, lstm_nlp, rnn_bits, two_spirals

SPIRALS = ["--trainer.max_steps", "24", "--data.steps_per_epoch", "12"]
SPACES = {"target": [], "weight": ["--target_space", "null"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An archive of 8 x 8 grey images, a bright quarter for each of four classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 4
    x = generator.integers(0, 60, (60, 8, 8))
    for i, label in enumerate(labels):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[i, row : row + 4, column : column + 4] += 150
    x = x.astype(np.uint8)
    path = tmp_path_factory.mktemp("images") / "quarters.npz"
    np.savez(path, x_train=x[:40], y_train=labels[:40], x_test=x[40:], y_test=labels[40:])
    return path


@pytest.fixture(scope="module")
def quarters(images, tmp_path_factory):
    """For each space a run on these images: its folder, what it printed, and the labels in the order of training."""
    found = {}
    for space, options in SPACES.items():
        labels = []

        class Recorder(cnn_images.ImageClassifier):
            def training_step(self, batch, batch_idx, labels=labels):
                labels.append(batch[1].tolist())
                return super().training_step(batch, batch_idx)

        folder = tmp_path_factory.mktemp("quarters") / space
        data = ["--data.source", "npz", "--data.file", images, "--data.batch_size", "20", "--seed_everything", "5"]
        short = ["--trainer.max_epochs", "2", "--model.dropout", "0.2", "--out", folder]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cnn_images, "ImageClassifier", Recorder)
            found[space] = folder, done(cnn_images.main, *data, *short, *options).out, labels
    return found


@pytest.mark.parametrize("space", SPACES)
def test_two_spirals_leaves_its_files_and_a_table(space, tmp_path):
    folder = tmp_path / "run"
    table = done(two_spirals.main, *SPIRALS, *SPACES[space], "--out", folder).out
    assert files(folder) == FILES | pictures("decision_regions")
    assert (folder / "figure.png").stat().st_size < 150_000
    assert f"two spirals, 2-12-12-12-2, {space} space: done after 24 steps" in table
    assert re.search(r"test accuracy +0\.\d{4} +0\.\d{4} +\d+", table)
    assert re.search(r"first step at 100 % training accuracy +not reached", table)
    assert re.search(r"time per step +[\d.]+ ms", table)
    assert str(folder) in table
    assert metrics(folder, "steps") == [12, 24, 24]
    assert metrics(folder, "seconds") == sorted(metrics(folder, "seconds"))
    assert ("target_space" in torch.load(folder / "last.ckpt", weights_only=True)) == (space == "target")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["space"], summary["steps"], summary["interrupted"]) == (space, 24, False)


@pytest.mark.parametrize("space", SPACES)
def test_cnn_images_leaves_its_files_and_a_table(space, quarters):
    folder, table, _ = quarters[space]
    assert files(folder) == FILES | pictures("confusion_matrix", "sample_predictions")
    assert (folder / "figure.png").stat().st_size < 150_000
    assert f"quarters.npz, convolutional network, {space} space: done after 4 steps" in table
    assert str(folder) in table
    assert len(metrics(folder, "train/loss")) == 4


def test_both_spaces_see_the_same_data_in_the_same_order(quarters):
    seen = {space: labels for space, (_, _, labels) in quarters.items()}
    assert len(seen["target"]) == 4
    assert seen["target"] == seen["weight"]


@pytest.mark.parametrize("space", SPACES)
def test_a_checkpoint_classifies_as_the_run_did(space, quarters, images):
    folder = quarters[space][0]
    model = cnn_images.ImageClassifier.load_from_checkpoint(folder / "last.ckpt", map_location="cpu").eval()
    assert (model.target_space is None) == (space == "weight")
    with np.load(images) as arrays, torch.no_grad():
        logits = model(torch.from_numpy(arrays["x_test"])[:, None].float() / 255)
        accuracy = (logits.argmax(1).numpy() == arrays["y_test"]).mean()
    assert accuracy == pytest.approx(metrics(folder, "test/accuracy")[-1])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 9, 13)])
def test_the_network_takes_images_of_any_size(shape):
    network = cnn_images.convolutions(shape, 7)
    assert network(torch.zeros(2, *shape)).shape == (2, 7)


def test_shortcuts_feed_every_layer_with_all_before_it():
    network = two_spirals.TanhNetwork([5, 5, 5], shortcuts=True)
    assert [layer.in_features for layer in network.layers] == [2, 7, 12, 17]
    x = torch.randn(4, 2)
    a, b, c, d = network.layers
    h1 = a(x).tanh()
    h2 = b(torch.cat([x, h1], 1)).tanh()
    h3 = c(torch.cat([x, h1, h2], 1)).tanh()
    torch.testing.assert_close(network(x), d(torch.cat([x, h1, h2, h3], 1)))


def test_a_run_is_repeated_from_its_settings(tmp_path):
    settings = ["--target_space.ridge", "0.05", "--target_space.reference.size", "150", "--seed_everything", "3"]
    options = [*SPIRALS, "--model.shortcuts", "true", *settings]
    ended = done(two_spirals.main, *options, "--out", tmp_path / "a", drawn=False)
    saved = yaml.safe_load((tmp_path / "a" / "config.yaml").read_text())
    assert saved["target_space"]["ridge"] == 0.05
    assert saved["target_space"]["reference"]["size"] == 150
    assert (saved["seed_everything"], saved["model"]["shortcuts"], saved["threads"]) == (3, True, 1)
    command = re.search(r"^repeat +(.*)$", ended.out, re.MULTILINE)[1]
    assert command.startswith("python -m ts_lightning.recipes.two_spirals ")
    done(two_spirals.main, *shlex.split(command)[3:], "--out", tmp_path / "b", drawn=False)
    assert metrics(tmp_path / "a", "train/loss") == metrics(tmp_path / "b", "train/loss")


def test_defaults_and_that_every_setting_can_be_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    class Recorder(two_spirals.TwoSpirals):
        def on_train_start(self):
            super().on_train_start()
            (optimizer,) = self.trainer.optimizers
            seen.append((self.target_space, self.hidden, optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(two_spirals, "TwoSpirals", Recorder)
    changes = ["--target_space.ridge_scale=mean", "--target_space.ridge=0.02", "--target_space.reference.rows=150"]
    for options in ([], [*changes, "--model.shortcuts=true", "--model.lr=0.5"]):
        done(two_spirals.main, "--trainer.fast_dev_run", "1", *options)
    assert list(tmp_path.iterdir()) == []
    found = [(c.ridge_scale, c.ridge, c.init, c.reference.size, c.reference.rows, *more) for c, *more in seen]
    assert found == [
        ("absolute", 0.001, "normalised", 194, "all", [12, 12, 12], 0.01),
        ("mean", 0.02, "normalised", 194, 150, [5, 5, 5], 0.5),
    ]


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ts_lightning.cli.files.datetime", Clock)
    for _ in range(2):
        done(two_spirals.main, "--trainer.max_steps", "1", "--trainer.logger", "false", drawn=False)
    runs = sorted((tmp_path / "runs" / "two_spirals").iterdir())
    assert [path.name for path in runs] == ["2026-01-31_23-59-58", "2026-01-31_23-59-58_2"]


class Clock:
    """It stands still."""

    @staticmethod
    def now():
        from datetime import datetime

        return datetime(2026, 1, 31, 23, 59, 58)


MISTAKES = [
    (two_spirals, ["--model.lr", "0"], "lr: found 0.0; expected a number above 0"),
    (two_spirals, ["--model.hidden", "[5,0]"], "hidden: found 0"),
    (two_spirals, ["--data.steps_per_epoch", "0"], "steps_per_epoch: found 0; expected a number at least 1"),
    (two_spirals, ["--target_space.layers", "[nothing]"], "matches no layer"),
    (two_spirals, ["--space", "weight"], "--space"),
    (cnn_images, ["--model.dropout", "1"], "dropout: found 1.0; expected a number at least 0 and below 1"),
    (cnn_images, ["--data.source", "npz"], "expected --data.file PATH"),
    (cnn_images, ["--data.source", "npz", "--data.file", "nowhere.npz"], "'nowhere.npz': found nothing"),
    (cnn_images, ["--data.file", "nowhere.npz"], "goes with --data.source npz"),
    (cnn_images, ["--data.source", "mnist", "--data.root", "nowhere"], "Add --data.download true"),
    (cnn_images, ["--data.source", "imagenet"], "fashion_mnist"),
    (cnn_images, ["--target_space.ridge", "-1"], "expected a finite number above 0"),
    (cnn_images, ["--target_space.reference.selection", "best"], "balanced"),
    (rnn_bits, ["--data.delay", "0"], "delay: found 0; expected a number at least 1"),
    (rnn_bits, ["--model.units", "0"], "units: found 0"),
    (rnn_bits, ["--data.batch_size", "8001"], "batch_size: found 8001; expected a number at least 1 and below 8001"),
    (rnn_bits, ["--data.task", "and"], "adder"),
]


@pytest.mark.parametrize(("recipe", "options", "message"), MISTAKES, ids=[" ".join(m[1]) for m in MISTAKES])
def test_a_mistake_ends_with_what_to_do_and_code_2(recipe, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(recipe.main, *options, "--trainer.enable_progress_bar", "false")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_holds_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for out, message in ((tmp_path, "found files in it"), (tmp_path / "thesis.tex" / "run", "cannot be made")):
        assert message in mistake(two_spirals.main, *SPIRALS, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("after", [0, 15])
def test_ctrl_c_ends_with_the_table_a_checkpoint_and_how_to_go_on(after, tmp_path, monkeypatch):
    class Interrupted(two_spirals.TwoSpirals):
        def training_step(self, batch, batch_idx):
            if self.global_step == after:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(two_spirals, "TwoSpirals", Interrupted)
    folder = tmp_path / "run"
    ended = program(two_spirals.main, *SPIRALS, "--trainer.enable_progress_bar", "false", "--out", folder)
    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert f"interrupted after {after} steps" in ended.out
    assert ("not measured yet" in ended.out) == (after == 0)
    assert {"figure.png", "last.ckpt", "config.yaml", "report.html"} <= files(folder)
    fit = f"python -m ts_lightning.recipes.two_spirals fit --config {folder}/config.yaml"
    assert re.search(rf"^resume +{re.escape(fit)} --ckpt_path {re.escape(str(folder))}/last.ckpt$", ended.out, re.M)


@pytest.mark.parametrize("recipe", [two_spirals, cnn_images, rnn_bits, lstm_nlp])
def test_recipes_say_which_extra_they_need(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    error = mistake(recipe.main)
    name = recipe.__name__
    assert error.startswith(f"{name}: error: jsonargparse could not be imported")
    assert error.endswith("Install it: pip install 'ts-lightning[recipes]'\n")


def test_data_modules_and_models_work_in_a_trainer_of_ones_own(tmp_path):
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, default_root_dir=tmp_path, accelerator="cpu"
    )
    model = two_spirals.TwoSpirals()
    model.target_space = None
    trainer.fit(model, two_spirals.SpiralsDataModule(steps_per_epoch=5))
    assert trainer.global_step == 5


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (cnn_images.ImageClassifier, {"shape": (1, 8, 8), "classes": 3}),
        (rnn_bits.BitClassifier, {"units": 4, "delay": 2}),
    ],
)
def test_a_model_is_built_by_its_arguments_or_says_what_is_missing(kind, given, tmp_path):
    assert kind(**given).network is not None
    trainer = pl.Trainer(fast_dev_run=1, accelerator="cpu", enable_progress_bar=False, default_root_dir=tmp_path)
    with pytest.raises(ValueError, match=f"{kind.__name__}: found no .*DataModule that says what the network has to"):
        trainer.fit(kind(), two_spirals.SpiralsDataModule())
