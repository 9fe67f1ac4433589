"""A short run of every recipe with W&B offline, read back: the monitor, pictures, settings and the checkpoint."""

import json

import numpy as np
import pytest
import yaml

from tests.support.offline import artifacts, config, history, records
from tests.support.runs import done, unreported
from ts_lightning.recipes import cnn_images, lstm_nlp, rnn_bits, two_spirals

SHORT = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.log_every_n_steps", "1"]
RECURRENT = {"recurrent.l0", "readout"}
CONVOLUTIONS = {str(place) for place in (0, 2, 5, 7, 10, 12, 16, 18)}


def two_spirals_options(folder):
    return ["--data.steps_per_epoch", "2"]


def rnn_bits_options(folder):
    return ["--data.delay", "2", "--model.units", "3", "--trainer.val_check_interval", "2"]


def cnn_images_options(folder):
    generator = np.random.default_rng(0)
    arrays = {f"x_{split}": generator.random((20, 8, 8), np.float32) for split in ("train", "test")}
    np.savez(folder / "x.npz", **arrays, y_train=np.arange(20) % 3, y_test=np.arange(20) % 3)
    return ["--data.source", "npz", "--data.file", folder / "x.npz", "--data.batch_size", "10"]


def lstm_nlp_options(folder):
    pytest.importorskip("tokenizers")
    rows = [f"text {i} has a {('cat', 'dog')[i % 2]} in it,{i % 2}" for i in range(20)]
    (folder / "x.csv").write_text("\n".join(["text,label", *rows]))
    data = ["--data.source", "csv", "--data.file", folder / "x.csv", "--data.test_file", folder / "x.csv"]
    return [*data, "--data.batch_size", "10", "--model.embedding", "4", "--model.units", "5"]


RECIPES = {
    two_spirals: (two_spirals_options, {f"layers.{i}" for i in range(4)}, ["decision_regions"]),
    cnn_images: (cnn_images_options, CONVOLUTIONS, ["sample_predictions", "confusion_matrix"]),
    rnn_bits: (rnn_bits_options, RECURRENT, []),
    lstm_nlp: (lstm_nlp_options, RECURRENT, ["confusion_matrix"]),
}


@pytest.fixture(autouse=True)
def _unreported(monkeypatch):
    unreported(monkeypatch)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__.split(".")[-1])
def test_a_run_is_read_back(recipe, offline):
    import wandb

    options, layers, pictures = RECIPES[recipe]
    folder = offline / "run"
    logger = ["--trainer.logger", "WandbLogger", "--trainer.logger.project", "tests"]
    logger += ["--trainer.logger.save_dir", offline]
    done(recipe.main, *options(offline), *SHORT, *logger, "--out", folder)
    media = offline / "wandb" / "latest-run" / "files"
    wandb.finish()

    found = records(offline)
    logged, settings = history(found), config(found)
    seen = {key.split("/", 2)[2] for key in logged if key.startswith("target_space/residual/")}
    assert seen == {f"network.{layer}" for layer in layers}
    for layer in seen:
        for quantity in ("residual", "condition", "rank", "ridge"):
            assert np.isfinite(logged[f"target_space/{quantity}/{layer}"])
        for kind in ("target", "weight"):
            assert logged[f"target_space/{kind}_norm/{layer}"] > 0
            assert logged[f"target_space/{kind}_gradient_norm/{layer}"] > 0
            assert logged[f"target_space/{kind}s/{layer}/_type"] == "histogram"
            assert sum(logged[f"target_space/{kind}s/{layer}/values"]) > 0
    assert 0 < sum(logged[f"target_space/share/{part}"] for part in ("solve", "main", "pullback")) <= 1
    assert {"train/loss", "test/loss", "test/accuracy", "steps", "seconds"} <= set(logged)

    for name in pictures:
        (file,) = logged[f"pictures/{name}/filenames"]
        assert (media / file).read_bytes() == (folder / f"{name}.png").read_bytes()
    assert any(key.startswith("pictures/") for key in logged) == bool(pictures)
    if recipe is lstm_nlp:
        texts = json.loads((media / logged["pictures/worst_texts/path"]).read_text())
        assert texts["columns"] == ["text", "label", "predicted", "probability", "loss"]
        assert texts["data"][0][0].startswith("text ")

    saved = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["space"] == "target"
    for group in ("target_space", "model", "data"):
        assert settings[group] == saved[group]
    assert [(kind, names) for kind, _, names in artifacts(found) if kind == "model"] == [("model", ["model.ckpt"])]


def test_in_weight_space_the_monitor_is_silent(offline):
    import wandb

    logger = ["--trainer.logger", "WandbLogger", "--trainer.logger.save_dir", offline, "--target_space", "null"]
    done(two_spirals.main, *SHORT, *logger, "--out", offline / "run")
    wandb.finish()
    found = records(offline)
    assert config(found)["space"] == "weight"
    assert [key for key in history(found) if key.startswith("target_space/")] == []
    assert "test/accuracy" in history(found)
