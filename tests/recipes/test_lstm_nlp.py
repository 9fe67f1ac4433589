"""The recipe lstm_nlp: what a run leaves, its references, predicting with its checkpoint, and a user's mistakes."""

import csv
import io
import re
import shlex
import sys

import pytest
import torch
import yaml

from tests.support.runs import FILES, done, files, metrics, mistake, pictures
from ts_lightning.recipes import lstm_nlp
from ts_lightning.recipes._text_classifier import TextClassifier, WordDropout
from ts_lightning.recipes.data import TextDataModule

pytest.importorskip("tokenizers")

SMALL = ["--model.embedding", "4", "--model.units", "6", "--data.batch_size", "20"]
WEIGHT = ["--target_space", "null"]
LEFT = FILES | pictures("confusion_matrix") | {"worst_texts.csv"}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with forty training texts and ten test texts; the animal in the middle tells the class."""
    folder = tmp_path_factory.mktemp("texts")
    for name, count in (("train", 40), ("test", 10)):
        rows = [f"text {i} has a {('cat', 'dog')[i % 2]} in it,{('miaow', 'woof')[i % 2]}" for i in range(count)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    return folder


@pytest.fixture(scope="module")
def pets(texts):
    """Options that say these texts, and a small network."""
    return [
        *("--data.source", "csv", "--data.file", texts / "train.csv", "--data.test_file", texts / "test.csv"),
        *SMALL,
    ]


@pytest.fixture(scope="module")
def begun(pets, tmp_path_factory):
    """A run in weight space that has learned a little."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    done(lstm_nlp.main, *pets, *WEIGHT, "--trainer.max_epochs", "3", "--out", folder, drawn=False)
    return folder


def predicted(capsys, *arguments):
    capsys.readouterr()
    lstm_nlp.main(["predict", *map(str, arguments)])
    out, err = capsys.readouterr()
    return [line.split("\t") for line in out.splitlines()], err


@pytest.mark.parametrize("options", [WEIGHT, ["--model.reference", "noise"]], ids=["weight", "target"])
def test_a_run_leaves_its_files_and_a_table(options, tmp_path):
    folder = tmp_path / "run"
    short = ["--data.largest", "3", "--data.length", "12", "--trainer.max_steps", "4", "--out", folder]
    ended = done(lstm_nlp.main, *SMALL, *options, *short)
    assert files(folder) == LEFT
    assert (folder / "figure.png").stat().st_size < 150_000
    space = "weight" if options == WEIGHT else "target"
    assert f"topics, rnn of 6 units, {space} space: done after 4 steps" in ended.out
    assert re.search(r"test accuracy +0\.\d{4} +0\.\d{4} +\d+", ended.out)
    assert re.search(r"majority class +0\.\d{4} test accuracy", ended.out)
    assert re.search(r"classes +3: ", ended.out)
    assert re.search(r"texts +[\d,]+ training, [\d,]+ validation, [\d,]+ test", ended.out)
    assert len(metrics(folder, "test/accuracy")) == 1  # what is held out for validation decides, the test data do not
    assert f"predict {folder / 'last.ckpt'}" in ended.out
    assert re.search(r"lstm_nlp: warning: [\d,]+ training texts: [\d,]+ longer than 12 words", ended.err)
    assert len(metrics(folder, "train/loss")) == 4
    with (folder / "worst_texts.csv").open(newline="") as lines:
        assert all(row["text"] for row in csv.DictReader(lines))


@pytest.mark.parametrize(
    ("options", "cell"), [([], "lstm"), ([], "rnn"), (WEIGHT, "gru")], ids=["target-lstm", "target-rnn", "weight-gru"]
)
def test_it_learns_and_its_checkpoint_classifies_new_text(options, cell, pets, tmp_path, capsys):
    run = tmp_path / "run"
    options = [*options, "--model.cell", cell, "--model.lr", "0.01", "--trainer.max_epochs", "20", "--out", run]
    done(lstm_nlp.main, *pets, *options, drawn=False)
    assert metrics(run, "test/accuracy")[-1] == 1
    rows, err = predicted(capsys, run / "last.ckpt", "text 99 has a CAT in it", "text has a dog, in it!", "")
    assert [row[0] for row in rows][:2] == ["miaow", "woof"]
    assert [row[2] for row in rows] == ["text 99 has a CAT in it", "text has a dog, in it!", ""]
    assert all(0.5 <= float(row[1]) <= 1 for row in rows)
    assert re.search(r"warning: 3 lines: words that are not among the .*: 1 \(7\.7%\); 1 without any known word", err)


def test_the_command_for_new_text_can_be_pasted_from_a_folder_with_spaces(pets, tmp_path, capsys):
    short = ["--trainer.max_steps", "2", "--out", tmp_path / "a run"]
    ended = done(lstm_nlp.main, *pets, *WEIGHT, *short, drawn=False)
    (line,) = (line for line in ended.out.splitlines() if line.startswith("new text"))
    command = shlex.split(line.partition(" predict ")[2])
    assert command == [str(tmp_path / "a run" / "last.ckpt"), "some text"]
    rows, _ = predicted(capsys, *command)
    assert [row[2] for row in rows] == ["some text"]


def test_predict_reads_lines_of_standard_input_as_the_run_did_its_test_texts(begun, texts, capsys, monkeypatch):
    with (texts / "test.csv").open() as lines:
        test = list(csv.DictReader(lines))
    raw = "\r\n".join(row["text"] for row in test).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    rows, _ = predicted(capsys, begun / "last.ckpt")
    right = [row[0] == expected["label"] for row, expected in zip(rows, test, strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics(begun, "test/accuracy")[-1])
    model = TextClassifier.load_from_checkpoint(begun / "last.ckpt")
    probabilities = model.probabilities([row["text"] for row in test])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(test)))
    assert [float(row[1]) for row in rows] == pytest.approx(probabilities.amax(dim=1).tolist(), abs=1e-4)


def test_both_spaces_see_the_same_data_in_the_same_order_and_a_run_is_repeated(pets, monkeypatch, tmp_path):
    seen = {"target": [], "weight": []}
    original = lstm_nlp.TextClassifier
    for space, batches in seen.items():

        class Recorder(original):
            def training_step(self, batch, batch_idx, batches=batches):
                batches.append(batch[0].tolist())
                return super().training_step(batch, batch_idx)

        monkeypatch.setattr(lstm_nlp, "TextClassifier", Recorder)
        options = ["--seed_everything", "5", "--model.reference_steps", "5", "--trainer.max_epochs", "2"]
        options += [*(WEIGHT if space == "weight" else []), "--out", tmp_path / space]
        done(lstm_nlp.main, *pets, *options, drawn=False)
    assert len(seen["target"]) == 4
    assert seen["target"] == seen["weight"]
    settings = yaml.safe_load((tmp_path / "target" / "config.yaml").read_text())
    assert (settings["trainer"]["max_epochs"], settings["model"]["reference_steps"]) == (2, 5)
    assert settings["threads"] == 1
    again = ["--config", tmp_path / "target" / "config.yaml", "--out", tmp_path / "again"]
    done(lstm_nlp.main, *again, drawn=False)
    assert metrics(tmp_path / "target", "train/loss") == metrics(tmp_path / "again", "train/loss")


@pytest.mark.parametrize(("reference", "shape"), [("embeddings", (20, 3)), ("noise", (20, 3, 4))])
def test_settings_reach_the_model_and_the_reference_is_the_end_of_texts_or_noise(reference, shape, pets, tmp_path):
    options = ["--model.reference", reference, "--model.reference_steps", "3", "--target_space.reference.size", "20"]
    options += ["--model.dropout", "0.3", "--model.lr", "0.004", "--trainer.max_epochs", "1"]
    done(lstm_nlp.main, *pets, *options, "--out", tmp_path / "run", drawn=False)
    model = TextClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt")
    assert (model.network.dropout.share, model.lr) == (0.3, 0.004)
    held = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["target_space"]["reference"]
    assert held.shape == shape
    if reference == "noise":
        assert held.min() >= -1
        assert held.max() <= 1
        assert abs(float(held.mean())) < 0.2
    else:
        words = model.encoder.words
        ends = {tuple(words[i] for i in row) for row in held}
        assert ends == {("cat", "in", "it"), ("dog", "in", "it")}


@pytest.mark.parametrize("reference", ["embeddings", "noise"])
def test_a_choice_of_samples_beside_noise_is_said_to_be_without_effect(reference, pets, tmp_path):
    chosen = ["--target_space.reference.selection", "random", "--target_space.reference.refresh", "1"]
    short = ["--model.reference", reference, "--trainer.max_steps", "2", "--out", tmp_path / "run"]
    ended = done(lstm_nlp.main, *pets, *chosen, *short, drawn=False)
    for said in ("reference.selection random: without effect", "reference.refresh 1: without effect"):
        assert ended.err.count(said) == (reference == "noise")


def test_word_dropout_takes_words_to_the_unknown_one_in_training_only():
    dropout = WordDropout(0.25, pad=0, unknown=1)
    tokens = torch.arange(2, 2002).reshape(2, 1000)
    tokens[:, :500] = 0
    torch.manual_seed(0)
    dropped = dropout(tokens)
    assert (dropped[:, :500] == 0).all()
    assert ((dropped == tokens) | (dropped == 1)).all()
    assert 0.2 < (dropped[:, 500:] == 1).float().mean() < 0.3
    assert dropout.eval()(tokens) is tokens


def test_the_embedding_gets_the_gradient_of_the_solve_if_it_is_in_the_reference():
    from ts_lightning import TargetSpace
    from ts_lightning.recipes.data.tokens import TextEncoder

    texts = ["a b c d", "b d", "c"]
    encoder = TextEncoder.learn(texts, 10, 4)
    model = TextClassifier(encoder.to_json(), ["x", "y"], embedding=3, units=5, reference="embeddings")
    tokens = encoder(texts).ids
    space = TargetSpace(model, tokens, model.target_space)
    model(tokens[2:]).square().sum().backward()
    own = model.network.embedding.weight.grad.clone()
    space.pullback()
    both = model.network.embedding.weight.grad
    outside = [encoder.words.index(word) for word in "abd"]
    assert (own[outside] == 0).all()
    assert (both[outside] != 0).any(dim=1).all()
    assert (both[encoder.pad] == 0).all()


def test_validation_holds_texts_out_of_training():
    both = [TextDataModule(largest=3, length=12, validation=share) for share in (0.0, 0.25)]
    every, held = (data.texts for data in both)
    assert [data.validates_on for data in both] == ["test", "val"]
    assert (held.x_test, held.labels) == (every.x_test, every.labels)
    samples = both[1].val_dataloader().dataset
    assert sorted([*held.x_train, *samples.texts]) == sorted(every.x_train)
    assert 0.15 < len(samples) / len(every.x_train) < 0.35
    known = dict(zip(every.x_train, every.y_train.tolist(), strict=True))
    assert [known[text] for text in samples.texts] == samples.tensors[1].tolist()
    assert [known[text] for text in held.x_train] == held.y_train.tolist()
    assert both[0].val_dataloader().dataset.texts == every.x_test


MISTAKES = [
    (["--data.validation", "1"], "validation: found 1.0; expected a number at least 0 and below 1"),
    (["--data.validation", "0.0001"], "too few to hold out a share of 0.0001 for validation"),
    (["--model.units", "0"], "units: found 0; expected a number at least 1"),
    (["--data.words", "2"], "words: found 2; expected a number at least 3"),
    (["--model.lr", "0"], "lr: found 0.0"),
    (["--model.dropout", "1"], "dropout: found 1.0; expected a number at least 0 and below 1"),
    (["--data.largest", "1"], "topics: found 1; expected 2 to"),
    (["--data.source", "csv"], "csv: found no file; expected --data.file PATH"),
    (["--data.source", "csv", "--data.file", "nowhere.csv"], "'nowhere.csv': found nothing"),
    (["--data.source", "imdb", "--data.root", "nowhere"], "there is no such folder"),
    (["--model.reference", "zeros"], "noise"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_ends_with_what_to_do_and_code_2(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in mistake(lstm_nlp.main, *options, "--trainer.enable_progress_bar", "false")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.ckpt", "text"], "'nowhere.ckpt': found nothing; expected a checkpoint"),
        (["damaged.ckpt", "text"], "'damaged.ckpt': not a checkpoint of lstm_nlp"),
        (["other.ckpt", "text"], "'other.ckpt': not a checkpoint of lstm_nlp"),
        ([".", "text"], "'.': found a folder"),
    ],
)
def test_predict_refuses_what_is_no_checkpoint_of_the_recipe(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.ckpt").write_text("no checkpoint")
    torch.save({"state_dict": {}, "hyper_parameters": {"hidden": [3]}}, tmp_path / "other.ckpt")
    assert message in mistake(lstm_nlp.main, "predict", *arguments)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "found no text; expected lines of it"),
        (b"good\ncaf\xe9\n", "standard input, line 2: found the byte 0xe9, which is not UTF-8"),
    ],
)
def test_predict_refuses_what_is_no_text(raw, message, begun, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert message in mistake(lstm_nlp.main, "predict", begun / "last.ckpt")
