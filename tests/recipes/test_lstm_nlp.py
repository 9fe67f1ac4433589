"""The recipe lstm_nlp: what a run leaves, its references, predicting with its checkpoint, and a user's mistakes."""

import csv
import io
import re
import sys

import pytest
import torch
import yaml

from tests.recipes.runs import FILES, files, metrics
from ts_lightning.recipes import lstm_nlp
from ts_lightning.recipes._text_classifier import TextClassifier, WordDropout

pytest.importorskip("tokenizers")

SMALL = ["--embedding", "4", "--units", "6", "--batch_size", "20"]


@pytest.fixture
def pets(tmp_path):
    """Forty training texts and ten test texts; the animal in the middle tells the class."""
    for name, count in (("train", 40), ("test", 10)):
        rows = [f"text {i} has a {('cat', 'dog')[i % 2]} in it,{('miaow', 'woof')[i % 2]}" for i in range(count)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]))
    return ["--data", "csv", "--file", str(tmp_path / "train.csv"), "--test_file", str(tmp_path / "test.csv"), *SMALL]


def predicted(capsys, *arguments):
    capsys.readouterr()
    lstm_nlp.main(["predict", *map(str, arguments)])
    out, err = capsys.readouterr()
    return [line.split("\t") for line in out.splitlines()], err


@pytest.mark.parametrize("options", [["--space", "weight"], ["--reference", "embeddings"], ["--reference", "noise"]])
def test_a_run_leaves_its_files_and_a_table(options, tmp_path, capsys):
    folder = tmp_path / "run"
    lstm_nlp.main([*SMALL, *options, "--topics", "3", "--steps", "4", "--length", "12", "--out", str(folder)])
    assert files(folder) == FILES
    assert (folder / "figure.png").stat().st_size < 150_000
    out, err = capsys.readouterr()
    assert f"topics, lstm of 6 units, {'weight' if 'weight' in options else 'target'} space: done after 4 steps" in out
    assert re.search(r"test accuracy +0\.\d{4} +0\.\d{4} +\d+", out)
    assert re.search(r"majority class +0\.\d{4} test accuracy", out)
    assert re.search(r"classes +3: ", out)
    assert f"predict {folder / 'last.ckpt'}" in out
    assert re.search(r"lstm_nlp: warning: [\d,]+ training texts: [\d,]+ longer than 12 words", err)
    assert len(metrics(folder, "train/loss")) == 4


@pytest.mark.parametrize(("space", "cell"), [("target", "lstm"), ("target", "rnn"), ("weight", "gru")])
def test_it_learns_and_its_checkpoint_classifies_new_text(space, cell, pets, tmp_path, capsys):
    run = tmp_path / "run"
    options = ["--space", space, "--cell", cell, "--epochs", "20", "--lr", "0.01", "--out", str(run)]
    lstm_nlp.main([*pets, *options])
    assert metrics(run, "test/accuracy")[-1] == 1
    rows, err = predicted(capsys, run / "last.ckpt", "text 99 has a CAT in it", "text has a dog, in it!", "")
    assert [row[0] for row in rows][:2] == ["miaow", "woof"]
    assert [row[2] for row in rows] == ["text 99 has a CAT in it", "text has a dog, in it!", ""]
    assert all(0.5 <= float(row[1]) <= 1 for row in rows)
    assert re.search(r"warning: 3 lines: words that are not among the .*: 1 \(7\.7%\); 1 without any known word", err)


def test_predict_reads_lines_of_standard_input_as_the_run_did_its_test_texts(pets, tmp_path, capsys, monkeypatch):
    lstm_nlp.main([*pets, "--space", "weight", "--epochs", "3", "--out", str(tmp_path / "run")])
    with (tmp_path / "test.csv").open() as lines:
        test = list(csv.DictReader(lines))
    raw = "\r\n".join(row["text"] for row in test).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
    rows, _ = predicted(capsys, tmp_path / "run" / "last.ckpt")
    right = [row[0] == expected["label"] for row, expected in zip(rows, test, strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics(tmp_path / "run", "test/accuracy")[-1])
    model = TextClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt")
    probabilities = model.probabilities([row["text"] for row in test])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(test)))
    assert [float(row[1]) for row in rows] == pytest.approx(probabilities.amax(dim=1).tolist(), abs=1e-4)


def test_a_run_is_repeated_from_its_settings(pets, tmp_path):
    lstm_nlp.main([*pets, "--epochs", "2", "--seed", "3", "--reference_steps", "5", "--out", str(tmp_path / "a")])
    settings = yaml.safe_load((tmp_path / "a" / "settings.yaml").read_text())
    assert (settings["length"], settings["epochs"], settings["reference_steps"]) == (500, 2, 5)
    lstm_nlp.main(["--config", str(tmp_path / "a" / "settings.yaml"), "--out", str(tmp_path / "b")])
    assert metrics(tmp_path / "a", "train/loss") == metrics(tmp_path / "b", "train/loss")


@pytest.mark.parametrize(("reference", "shape"), [("embeddings", (20, 3)), ("noise", (20, 3, 4))])
def test_the_reference_is_the_end_of_training_texts_or_noise(reference, shape, pets, tmp_path):
    options = ["--reference", reference, "--reference_steps", "3", "--target_space.reference.size", "20"]
    lstm_nlp.main([*pets, *options, "--epochs", "1", "--out", str(tmp_path / "run")])
    held = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["target_space"]["reference"]
    assert held.shape == shape
    if reference == "noise":
        assert held.min() >= -1
        assert held.max() <= 1
        assert abs(float(held.mean())) < 0.2
    else:
        words = TextClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt").encoder.words
        ends = {tuple(words[i] for i in row) for row in held}
        assert ends == {("cat", "in", "it"), ("dog", "in", "it")}


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


def test_word_dropout_and_learning_rate_reach_the_model(pets, tmp_path):
    options = ["--steps", "1", "--dropout", "0.3", "--lr", "0.004", "--out", str(tmp_path / "run")]
    lstm_nlp.main([*pets, *options])
    model = TextClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt")
    assert (model.network.dropout.share, model.lr) == (0.3, 0.004)


def test_the_embedding_gets_the_gradient_of_the_solve_if_it_is_in_the_reference():
    from ts_lightning import TargetSpace
    from ts_lightning.data.tokens import TextEncoder

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


MISTAKES = [
    (["--units", "0"], "--units: found 0; expected a number at least 1"),
    (["--words", "2"], "--words: found 2; expected a number at least 3"),
    (["--lr", "0"], "--lr: found 0.0"),
    (["--dropout", "1"], "--dropout: found 1.0; expected a number at least 0 and below 1"),
    (["--topics", "1"], "topics: found 1; expected 2 to"),
    (["--data", "csv"], "csv: found no file; expected --file PATH"),
    (["--data", "csv", "--file", "nowhere.csv"], "'nowhere.csv': found nothing"),
    (["--data", "imdb", "--root", "nowhere"], "there is no such folder"),
    (["--reference", "zeros"], "noise"),
    (["predict"], "checkpoint"),
    (["predict", "nowhere.ckpt", "text"], "'nowhere.ckpt': found nothing; expected a checkpoint"),
    (["predict", "damaged.ckpt", "text"], "'damaged.ckpt': not a checkpoint of lstm_nlp"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES])
def test_a_mistake_ends_with_what_to_do_and_code_2(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.ckpt").write_text("no checkpoint")
    with pytest.raises(SystemExit) as caught:
        lstm_nlp.main(options)
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "runs").exists()


def test_predict_refuses_a_checkpoint_of_another_recipe_and_what_is_no_text(pets, tmp_path, monkeypatch, capsys):
    from ts_lightning.recipes import two_spirals

    lstm_nlp.main([*pets, "--space", "weight", "--epochs", "1", "--out", str(tmp_path / "run")])
    two_spirals.main(["--steps", "1", "--out", str(tmp_path / "other")])
    cases = [
        ("other", b"text", "not a checkpoint of lstm_nlp"),
        ("run", b"", "found no text; expected lines of it"),
        ("run", b"good\ncaf\xe9\n", "standard input, line 2: found the byte 0xe9, which is not UTF-8"),
    ]
    for folder, raw, message in cases:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            lstm_nlp.main(["predict", str(tmp_path / folder / "last.ckpt")])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_both_spaces_see_the_same_data_in_the_same_order(pets, monkeypatch, tmp_path):
    seen = {"target": [], "weight": []}
    original = lstm_nlp.TextClassifier
    for space, batches in seen.items():

        class Recorder(original):
            def training_step(self, batch, batch_idx, batches=batches):
                batches.append(batch[0].tolist())
                return super().training_step(batch, batch_idx)

        monkeypatch.setattr(lstm_nlp, "TextClassifier", Recorder)
        lstm_nlp.main([*pets, "--epochs", "2", "--seed", "5", "--space", space, "--out", str(tmp_path / space)])
    assert len(seen["target"]) == 4
    assert seen["target"] == seen["weight"]
