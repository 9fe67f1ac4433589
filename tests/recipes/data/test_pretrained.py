"""torchtext's tokenizers, vocabularies and vectors in the text data module, with torchtext 0.6.0 itself."""

import collections
import re
import sys

import pytest

from tests.support.runs import done
from ts_lightning.data import DataError, TextDataModule
from ts_lightning.recipes import lstm_nlp
from ts_lightning.recipes._text_classifier import TextClassifier
from ts_lightning.recipes.data.pretrained import pretrained, rows, splitter

TEXTS = ["A good, good film!", "a bad film .", "good", "bad acting"]


@pytest.fixture
def torchtext():
    pytest.importorskip("tokenizers")
    found = pytest.importorskip("torchtext")
    if found.__version__ != "0.6.0":
        pytest.skip("needs torchtext 0.6.0")
    return found


@pytest.fixture
def reviews(tmp_path):
    lines = [f'"{text}",{int("good" in text)}' for text in TEXTS]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["text,label", *lines]))
    return {"source": "csv", "file": path, "test_file": path, "length": 5}


@pytest.fixture
def vector_file(tmp_path):
    """Four vectors of three numbers, one of them of a word that no review has."""
    path = tmp_path / "vectors.txt"
    path.write_text("good 1 2 3\nbad -1 -2 -3\nfilm 0.5 0 0\nzebra 9 9 9\n")
    return path


def vocabulary(torchtext, **options):
    split = splitter("basic_english")
    return torchtext.vocab.Vocab(collections.Counter(word for text in TEXTS for word in split(text)), **options)


@pytest.mark.filterwarnings("ignore")
def test_a_tokenizer_splits_the_words(torchtext, reviews):
    data = TextDataModule(**reviews, split=splitter("basic_english"))
    ((x, _),) = data.val_dataloader()
    words = [[data.encoder.words[i] for i in row] for row in x]
    assert words[0] == ["good", ",", "good", "film", "!"]
    assert words[1] == ["[PAD]", "a", "bad", "film", "."]


@pytest.mark.parametrize("first", [True, False])
def test_a_vocab_gives_the_numbers(torchtext, reviews, first):
    vocab = vocabulary(torchtext, min_freq=2, specials_first=first)
    data = TextDataModule(**reviews, split=splitter("basic_english"), vocab=vocab)
    with pytest.warns(UserWarning, match="not among the 6 of the vocabulary: 4 "):
        data.setup()
    assert data.encoder.words == vocab.itos
    ((x, _),) = data.val_dataloader()
    split = splitter("basic_english")
    expected = [[vocab.stoi[word] for word in split(text)][-5:] for text in TEXTS]
    pad = vocab.stoi["<pad>"]
    assert x.tolist() == [[pad] * (5 - len(row)) + row for row in expected]


def test_a_vocab_needs_its_specials_and_its_split(torchtext, reviews):
    bare = vocabulary(torchtext, specials=["<unk>"])
    with pytest.raises(DataError, match=re.escape("found no <pad> in it; expected torchtext's default specials")):
        TextDataModule(**reviews, split=str.split, vocab=bare).setup()
    with pytest.raises(DataError, match="vocab: found no split"):
        TextDataModule(**reviews, vocab=bare)


@pytest.mark.filterwarnings("ignore")
def test_vectors_are_those_of_the_words(torchtext, reviews, vector_file):
    vectors = pretrained(str(vector_file))
    assert {path.name for path in vector_file.parent.iterdir()} == {"reviews.csv", "vectors.txt"}
    vocab = vocabulary(torchtext, vectors=vectors)
    for given in (vectors, vocab):
        data = TextDataModule(**reviews, split=splitter("basic_english"), vectors=given)
        table, found = data.embeddings()
        assert table.shape == (len(data.encoder.words), 3)
        place = data.encoder.words.index
        assert table[place("bad")].tolist() == [-1, -2, -3]
        assert not table[place("acting")].any()
        assert not found[place("[PAD]")]
    with pytest.raises(DataError, match="found a Vocab without any"):
        rows(vocabulary(torchtext), ["good"])


@pytest.mark.filterwarnings("ignore")
def test_the_recipe_trains_from_vectors_and_predicts_with_the_tokenizer(
    torchtext, reviews, vector_file, tmp_path, capsys, monkeypatch
):
    started = []

    class Recorder(lstm_nlp.TextClassifier):
        def on_fit_start(self):
            started.append(self.network.embedding.weight.detach().clone())
            super().on_fit_start()

    monkeypatch.setattr(lstm_nlp, "TextClassifier", Recorder)
    path = str(reviews["file"])
    options = [
        "--data.source",
        "csv",
        "--data.file",
        path,
        "--data.test_file",
        path,
        "--model.layers",
        "1",
        "--model.units",
        "4",
    ]
    parts = ["--data.split", "basic_english", "--data.vectors", str(vector_file), "--trainer.max_epochs", "1"]
    out = done(lstm_nlp.main, *options, *parts, "--target_space", "null", "--out", tmp_path / "run", drawn=False).out
    assert re.search(r"words with pretrained vectors +3 of 10", out)
    model = TextClassifier.load_from_checkpoint(tmp_path / "run" / "last.ckpt")
    assert started[0].shape == (10, 3)
    assert started[0][model.encoder.words.index("good")].tolist() == [1, 2, 3]
    encoded = model.encoder(["good , film"])
    assert encoded.unknown == 0
    assert [model.encoder.words[i] for i in encoded.ids[0]][-3:] == ["good", ",", "film"]
    lstm_nlp.main(["predict", str(tmp_path / "run" / "last.ckpt"), "A good one!"])
    assert capsys.readouterr().out.endswith("A good one!\n")


def test_what_torchtext_does_not_have(torchtext, tmp_path):
    with pytest.raises(DataError, match="torchtext gives no such tokenizer"):
        splitter("klingon")
    with pytest.raises(DataError, match=re.escape("found no such file; expected one")):
        pretrained("nowhere.txt")
    (tmp_path / "bad.txt").write_text("good 1 2 3\nbad 1 2\n")
    with pytest.raises(DataError, match="could not be read or fetched"):
        pretrained(str(tmp_path / "bad.txt"))


def test_without_torchtext_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchtext.vocab", None)
    monkeypatch.setitem(sys.modules, "torchtext.data.utils", None)
    for ask, name in ((splitter, "basic_english"), (pretrained, "glove.6B.50d")):
        with pytest.raises(DataError, match=re.escape("pip install 'ts-lightning[torchtext]'")):
            ask(name)
