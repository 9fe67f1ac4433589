"""A recipe's checkpoint, or arguments, on data that they were not made for: refused, and not measured falsely."""

import os

import pytest
import torch

from tests.support.runs import done, mistake, program
from ts_lightning.recipes import cnn_images, lstm_nlp, rnn_bits, two_spirals

QUIET = ["--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
WORDS = {"pos": "a good film", "neg": "a bad film", "mid": "a film"}


def texts(file, labels, word=""):
    lines = [f"{WORDS[label]} {word}{number % 7},{label}" for number in range(20) for label in labels]
    file.write_text("\n".join(["text,label", *lines]) + "\n")
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    file = texts(folder / "texts.csv", ["pos", "neg"])
    options = [
        "--data.source",
        "csv",
        "--data.file",
        file,
        "--data.test_file",
        file,
        "--trainer.max_epochs",
        "1",
        *QUIET,
    ]
    done(lstm_nlp.main, "fit", *options, "--out", folder / "run", drawn=False)
    return folder


def of_the_run(folder):
    return ["--config", folder / "run/config.yaml", "--ckpt_path", folder / "run/last.ckpt"]


@pytest.mark.parametrize("command", ["test", "fit"])
@pytest.mark.parametrize(
    ("labels", "word", "said"),
    [
        (["pos", "neg"], "w", "others. Expected the training texts"),
        (["pos", "neg", "mid"], "", "--model.labels: found"),
    ],
    ids=["words", "labels"],
)
def test_texts_with_other_words_or_classes_are_refused(command, labels, word, said, trained, tmp_path):
    other = texts(tmp_path / "other.csv", labels, word)
    options = ["--data.file", other, "--data.test_file", other, "--trainer.max_epochs", "2", "--out", tmp_path / "run"]
    assert said in mistake(lstm_nlp.main, command, *of_the_run(trained), *options)


def test_other_texts_for_testing_are_measured(trained, tmp_path):
    other = texts(tmp_path / "other.csv", ["pos", "neg"], "w")
    done(lstm_nlp.main, "test", *of_the_run(trained), "--data.test_file", other, "--out", tmp_path / "run")


def test_a_training_that_had_ended_is_said_to_go_on_nowhere(trained, tmp_path):
    ended = done(lstm_nlp.main, "fit", *of_the_run(trained), "--out", tmp_path / "run", drawn=False)
    assert "nothing was trained, since its training had ended at step 1. Expected a larger" in ended.err


def test_a_checkpoint_of_another_recipe_is_named(trained, tmp_path):
    checkpoint = trained / "run/last.ckpt"
    error = mistake(two_spirals.main, "test", "--ckpt_path", checkpoint, "--out", tmp_path / "run")
    assert f"--ckpt_path {checkpoint}: its hyperparameters are no arguments of the module (" in error
    assert "Expected a checkpoint of the same module." in error


@pytest.mark.parametrize(("content", "said"), [(b"no checkpoint", "not a file of tensors"), (b"", "not a file of ten")])
def test_predict_says_that_a_file_is_no_checkpoint(content, said, tmp_path):
    file = tmp_path / "last.ckpt"
    file.write_bytes(content)
    assert said in mistake(lstm_nlp.main, "predict", file, "a text")


ARGUMENTS = {
    "delay": (rnn_bits, ["--model.delay", "7"], "--model.delay: found 7, and the data has 20."),
    "no delay": (rnn_bits, ["--model.delay", "0"], "delay: found 0; expected a number at least 1."),
    "shape": (cnn_images, ["--model.shape", "[1, 16, 16]"], "and the data has (1, 8, 8)."),
    "small": (cnn_images, ["--model.shape", "[1, 4, 8]"], "shape, height and width: found 4; expected a number at "),
    "channels": (cnn_images, ["--model.shape", "[0, 8, 8]"], "shape, channels: found 0; expected a number at least 1"),
    "classes": (cnn_images, ["--model.classes", "3"], "--model.classes: found 3, and the data has 10."),
    "tokenizer alone": (lstm_nlp, ["--model.tokenizer", "{}"], "--model.tokenizer: found no labels beside it"),
    "labels alone": (lstm_nlp, ["--model.labels", "[a, b]"], "--model.labels: found no tokenizer beside it"),
    "splitter alone": (lstm_nlp, ["--model.splitter", "foo"], "--model.splitter: found no tokenizer beside it"),
    "no classes": (cnn_images, ["--model.classes", "1"], "classes: found 1; expected a number at least 2."),
}


@pytest.mark.parametrize(("recipe", "options", "said"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments_that_do_not_fit_the_data_are_refused(recipe, options, said, tmp_path):
    ended = program(recipe.main, "fit", *options, *QUIET, "--trainer.max_steps", "1", "--out", tmp_path / "run")
    assert ended.code == 2, str(ended)
    assert said in ended.err
    assert not (tmp_path / "run").exists()


def test_predict_says_that_a_text_is_no_utf_8(trained):
    """As arguments come from a shell whose encoding is another one."""
    error = mistake(lstm_nlp.main, "predict", trained / "run/last.ckpt", "a good film", os.fsdecode(b"\xff film"))
    assert "text 2: found the byte 0xff, which is not UTF-8. Expected UTF-8" in error


@pytest.mark.parametrize(("features", "refused"), [([], False), (["7"], False), (["9"], True)])
def test_another_width_than_that_of_pretrained_vectors_is_refused(features, refused, tmp_path, monkeypatch):
    """It gave way to the vectors', without a word."""

    def embeddings(self):
        words = len(self.encoder.words)
        return torch.zeros(words, 7), torch.ones(words, dtype=torch.bool)

    monkeypatch.setattr("ts_lightning.recipes.data.TextDataModule.embeddings", embeddings)
    options = [f"--model.embedding={count}" for count in features]
    ended = program(lstm_nlp.main, "fit", *options, *QUIET, "--trainer.max_steps", "1", "--out", tmp_path / "run")
    assert ended.code == (2 if refused else 0), str(ended)
    assert ("--model.embedding: found 9, and the data has 7." in ended.err) == refused
