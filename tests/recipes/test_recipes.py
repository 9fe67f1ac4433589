"""The recipes as programs: what a run leaves, that it can be repeated, and how it ends on a mistake or Ctrl-C."""

import re
import subprocess
import sys

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import yaml

from tests.recipes.runs import FILES, files, metrics
from ts_lightning.recipes import cnn_images, lstm_nlp, rnn_bits, two_spirals

SPIRALS = ["--steps", "24", "--validate_every", "12"]


@pytest.fixture
def images(tmp_path):
    """An archive of 8 x 8 grey images, a bright quarter for each of four classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 4
    x = generator.integers(0, 60, (60, 8, 8))
    for i, label in enumerate(labels):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[i, row : row + 4, column : column + 4] += 150
    x = x.astype(np.uint8)
    path = tmp_path / "quarters.npz"
    np.savez(path, x_train=x[:40], y_train=labels[:40], x_test=x[40:], y_test=labels[40:])
    return ["--data", "npz", "--file", str(path), "--batch_size", "20"]


@pytest.mark.parametrize("space", ["target", "weight"])
def test_two_spirals_leaves_its_files_and_a_table(space, tmp_path, capsys):
    folder = tmp_path / "run"
    two_spirals.main([*SPIRALS, "--space", space, "--out", str(folder)])
    assert files(folder) == FILES
    assert (folder / "figure.png").stat().st_size < 150_000
    table = capsys.readouterr().out
    assert f"two spirals, 2-12-12-12-2, {space} space: done after 24 steps" in table
    assert re.search(r"test accuracy +0\.\d{4} +0\.\d{4} +\d+", table)
    assert re.search(r"first step at 100 % training accuracy +not reached", table)
    assert re.search(r"time per step +[\d.]+ ms", table)
    assert str(folder) in table
    assert metrics(folder, "steps") == [12, 24, 24]
    assert metrics(folder, "seconds") == sorted(metrics(folder, "seconds"))
    assert ("target_space" in torch.load(folder / "last.ckpt", weights_only=True)) == (space == "target")


@pytest.mark.parametrize("space", ["target", "weight"])
def test_cnn_images_leaves_its_files_and_a_table(space, images, tmp_path, capsys):
    folder = tmp_path / "run"
    cnn_images.main([*images, "--epochs", "2", "--dropout", "0.2", "--space", space, "--out", str(folder)])
    assert files(folder) == FILES
    assert (folder / "figure.png").stat().st_size < 150_000
    table = capsys.readouterr().out
    assert f"quarters.npz, convolutional network, {space} space: done after 4 steps" in table
    assert str(folder) in table
    assert len(metrics(folder, "train/loss")) == 4


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


def test_both_spaces_see_the_same_data_in_the_same_order(images, monkeypatch, tmp_path):
    seen = {"target": [], "weight": []}
    original = cnn_images.ImageClassifier
    for space, labels in seen.items():

        class Recorder(original):
            def training_step(self, batch, batch_idx, labels=labels):
                labels.append(batch[1].tolist())
                return super().training_step(batch, batch_idx)

        monkeypatch.setattr(cnn_images, "ImageClassifier", Recorder)
        options = ["--epochs", "2", "--dropout", "0.2", "--seed", "5", "--space", space]
        cnn_images.main([*images, *options, "--out", str(tmp_path / space)])
    assert len(seen["target"]) == 4
    assert seen["target"] == seen["weight"]


def test_a_run_is_repeated_from_its_settings(tmp_path):
    options = ["--shortcuts", "--target_space.ridge", "0.05", "--target_space.reference.size", "150"]
    two_spirals.main([*SPIRALS, *options, "--seed", "3", "--out", str(tmp_path / "a")])
    settings = yaml.safe_load((tmp_path / "a" / "settings.yaml").read_text())
    assert settings["target_space"]["ridge"] == 0.05
    assert settings["target_space"]["reference"]["size"] == 150
    assert settings["lr"] == two_spirals.LEARNING_RATES["target"]
    assert settings["hidden"] == [5, 5, 5]
    two_spirals.main(["--config", str(tmp_path / "a" / "settings.yaml"), "--out", str(tmp_path / "b")])
    assert metrics(tmp_path / "a", "train/loss") == metrics(tmp_path / "b", "train/loss")


def test_defaults_and_that_every_setting_can_be_changed(monkeypatch, tmp_path):
    spaces = []
    monkeypatch.setattr(two_spirals, "fit", lambda model, *_, **__: spaces.append(model.target_space) or sys.exit(0))
    changes = ["--target_space.ridge_scale=mean", "--target_space.ridge=0.02", "--target_space.reference.rows=150"]
    for number, options in enumerate(([], changes)):
        with pytest.raises(SystemExit):
            two_spirals.main([*options, "--out", str(tmp_path / str(number))])
    found = [(c.ridge_scale, c.ridge, c.init, c.reference.size, c.reference.rows) for c in spaces]
    assert found == [("absolute", 0.001, "normalised", 194, "all"), ("mean", 0.02, "normalised", 194, 150)]


def test_a_checkpoint_classifies_as_the_run_did(images, tmp_path):
    cnn_images.main([*images, "--steps", "2", "--out", str(tmp_path / "run")])
    model = cnn_images.ImageClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt").eval()
    with np.load(images[3]) as arrays, torch.no_grad():
        logits = model(torch.from_numpy(arrays["x_test"])[:, None].float() / 255)
        accuracy = (logits.argmax(1).numpy() == arrays["y_test"]).mean()
    assert accuracy == pytest.approx(metrics(tmp_path / "run", "test/accuracy")[-1])


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        two_spirals.main(["--steps", "1"])
    runs = sorted((tmp_path / "runs" / "two_spirals").iterdir())
    assert len(runs) == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", runs[0].name)


MISTAKES = [
    (two_spirals, ["--steps", "0"], "--steps: found 0; expected a number at least 1"),
    (two_spirals, ["--lr", "0"], "--lr: found 0.0; expected a number above 0"),
    (two_spirals, ["--hidden", "[5,0]"], "--hidden: found 0"),
    (two_spirals, ["--target_space.layers", "[nothing]"], "matches no layer"),
    (cnn_images, ["--dropout", "1"], "--dropout: found 1.0; expected a number at least 0 and below 1"),
    (cnn_images, ["--data", "npz"], "expected --file PATH"),
    (cnn_images, ["--data", "npz", "--file", "nowhere.npz"], "'nowhere.npz': found nothing"),
    (cnn_images, ["--file", "nowhere.npz"], "goes with --data npz"),
    (cnn_images, ["--data", "mnist", "--root", "nowhere"], "Add --download"),
    (cnn_images, ["--data", "imagenet"], "fashion_mnist"),
    (cnn_images, ["--target_space.ridge", "-1"], "expected a finite number above 0"),
    (cnn_images, ["--target_space.reference.selection", "best"], "balanced"),
]


@pytest.mark.parametrize(("recipe", "options", "message"), MISTAKES, ids=[" ".join(m[1]) for m in MISTAKES])
def test_a_mistake_ends_with_what_to_do_and_code_2(recipe, options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        recipe.main(options)
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_a_folder_that_holds_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    for out, message in ((tmp_path, "found files in it"), (tmp_path / "thesis.tex" / "run", "cannot be made")):
        with pytest.raises(SystemExit) as caught:
            two_spirals.main([*SPIRALS, "--out", str(out)])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("after", [0, 15])
def test_ctrl_c_ends_with_the_table_and_a_checkpoint(after, tmp_path, monkeypatch, capsys):
    class Interrupted(two_spirals.TwoSpirals):
        def training_step(self, batch, batch_idx):
            if self.global_step == after:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    monkeypatch.setattr(two_spirals, "TwoSpirals", Interrupted)
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as caught:
        two_spirals.main([*SPIRALS, "--out", str(folder)])
    assert caught.value.code == 130
    table = capsys.readouterr().out
    assert f"interrupted after {after} steps" in table
    assert ("not measured yet" in table) == (after == 0)
    assert {"figure.png", "last.ckpt", "settings.yaml"} <= {path.name for path in folder.iterdir()}


def test_help_gives_every_setting_with_its_default(capsys):
    for recipe in (two_spirals, cnn_images, rnn_bits, lstm_nlp):
        with pytest.raises(SystemExit) as caught:
            recipe.main(["--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        for option in ("--space", "--lr", "--seed", "--target_space.ridge ", "--target_space.reference.size"):
            assert option in text


def test_a_step_is_timed_without_the_first_ones():
    from ts_lightning.recipes._training import StepClock

    clock = StepClock()
    assert clock.median is None
    clock.seconds = [9.0] * 10 + [1.0, 2.0, 3.0] * 4
    assert clock.median == 2.0
    clock.seconds = [9.0, 1.0]
    assert clock.median == 1.0


def test_recipes_say_which_extra_they_need():
    code = (
        "import sys; from ts_lightning.recipes import cnn_images;"
        "sys.modules['jsonargparse'] = None; cnn_images.main([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "cnn_images: error: jsonargparse is not installed; recipes need it: pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_modules_and_models_work_in_a_trainer_of_ones_own(tmp_path):
    trainer = pl.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, default_root_dir=tmp_path, accelerator="cpu"
    )
    model = two_spirals.TwoSpirals(target_space=None)
    trainer.fit(model, two_spirals.SpiralsDataModule(steps_per_epoch=5))
    assert trainer.global_step == 5
