"""The text data module and its encoder: words, numbers, padding and cutting on the left, counts of what is lost."""

import re

import pytest
import torch

from ts_lightning.data import DataError, TextDataModule
from ts_lightning.recipes.data.tokens import TextEncoder

pytest.importorskip("tokenizers")


@pytest.fixture
def reviews(tmp_path):
    """A training and a test file with words, lengths and blanks that can be counted by hand."""
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("text,label\none two three four,good\none two three,bad\none two,good\none,bad\n")
    test.write_text("text,label\nzero one two three four,bad\nZERO ONE!,good\n...,bad\n")
    return {"source": "csv", "file": train, "test_file": test}


def module(reviews, **options):
    return TextDataModule(**reviews, **options)


def words(data, row):
    return [data.encoder.words[i] for i in row.tolist()]


def test_texts_are_padded_and_cut_on_the_left_and_losses_counted(reviews):
    data = module(reviews, length=3)
    with pytest.warns(UserWarning, match="longer than 3 words") as caught:
        data.setup()
    assert [str(warning.message) for warning in caught] == [
        "4 training texts: 1 longer than 3 words, of which the last ones are used.",
        "3 test texts: 1 longer than 3 words, of which the last ones are used; words that are not among the 6 of "
        "the vocabulary: 1 (20.0%); 1 without any known word.",
    ]
    ((x, y),) = data.test_dataloader()
    assert [words(data, row) for row in x] == [
        ["two", "three", "four"],
        ["[PAD]", "[UNK]", "one"],
        ["[PAD]", "[PAD]", "[PAD]"],
    ]
    assert (data.texts.labels, y.tolist()) == (["bad", "good"], [0, 1, 0])
    assert (x.dtype, y.dtype) == (torch.int32, torch.int64)


def test_sequences_are_no_longer_than_the_longest_training_text(reviews, recwarn):
    data = module(reviews, length=500)
    data.setup()
    assert data.encoder.length == 4
    assert next(iter(data.train_dataloader()))[0].shape == (4, 4)
    assert not any("training" in str(warning.message) for warning in recwarn)


@pytest.mark.filterwarnings("ignore")
def test_the_vocabulary_is_the_most_frequent_words(reviews):
    data = module(reviews, words=4)
    assert data.encoder.words == ["[PAD]", "[UNK]", "one", "two"]
    ((x, _),) = data.val_dataloader()
    assert words(data, x[0]) == ["one", "two", "[UNK]", "[UNK]"]


@pytest.mark.filterwarnings("ignore")
def test_order_of_training_data_follows_the_seed_alone():
    def order(seed):
        data = TextDataModule(largest=2, length=20, seed=seed, batch_size=2000)
        return next(iter(data.train_dataloader()))[0]

    torch.manual_seed(1)
    a = order(3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(a, order(3))
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(a, order(4))


def test_words_are_letters_and_digits_whatever_their_case_and_form():
    encoder = TextEncoder.learn(["Don\u2019t stop: caf\u00e9 No_1!", "\u4f60\u597d 42"], 100, 10)
    assert set(encoder.words) == {"[PAD]", "[UNK]", "don't", "stop", "caf\u00e9", "no_1", "\u4f60\u597d", "42"}
    same = encoder(["don't cafe\u0301", "DON\u2019T CAF\u00c9"]).ids
    assert torch.equal(same[0], same[1])
    assert encoder.unknown not in same


def test_special_words_in_a_text_are_ordinary_ones():
    encoder = TextEncoder.learn(["pad the wall"], 100, 10)
    encoded = encoder(["[PAD] the [UNK]"])
    assert [encoder.words[i] for i in encoded.ids[0]] == ["pad", "the", "[UNK]"]
    assert (encoded.tokens, encoded.unknown) == (3, 1)


@pytest.mark.parametrize("split", [None, str.split])
def test_an_encoder_survives_its_json(split):
    texts = ["a b c", "b c", "c d, e"]
    encoder = TextEncoder.learn(texts, 5, 2, split)
    again = TextEncoder.from_json(encoder.to_json(), split)
    new = ["c b a", "", "[PAD] zzz"]
    assert torch.equal(encoder(new).ids, again(new).ids)
    assert (again.words, again.length, again.pad) == (encoder.words, encoder.length, encoder.pad)
    assert encoder(new).ids.shape == (3, 2)


def test_texts_without_words_are_refused():
    with pytest.raises(DataError, match="found no word in 2 training texts"):
        TextEncoder.learn(["...", "?!"], 100, 10)


def test_many_texts_keep_their_order():
    texts = [f"word{i} word{i + 1}" for i in range(2500)]
    encoder = TextEncoder.learn(texts, 10_000, 5)
    encoded = encoder(texts)
    assert [[encoder.words[i] for i in row] for row in encoded.ids] == [text.split() for text in texts]
    assert (encoded.cut, encoded.blank, encoded.unknown, encoded.tokens) == (0, 0, 0, 5000)


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(DataError, match=re.escape("tokenizers could not be imported")) as caught:
        TextDataModule(largest=2).setup()
    assert "pip install 'ts-lightning[recipes]'" in str(caught.value)
