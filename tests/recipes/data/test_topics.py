"""Sentences of Python's documentation: whatever this version's pages hold, the task is well formed."""

import sys
import warnings

import pytest

from ts_lightning.data import DataError, TextDataModule
from ts_lightning.recipes.data.topics import sentences, topics

PAGE = """
Heading of five or more words
*****************************

The first sentence runs over
two lines.  A second one, "quoted", follows it!  Too short.

   >>> code(without, any, sentence, in_it)

* A point in a list is a sentence of its own.
"""


def test_sentences_are_prose_of_five_words_or_more():
    assert sentences(PAGE) == [
        "The first sentence runs over two lines.",
        'A second one, "quoted", follows it!',
        "A point in a list is a sentence of its own.",
    ]


def test_topics_are_the_largest_and_no_sentence_occurs_twice():
    few, more = topics(3), topics(6)
    assert len(few.labels) == 3
    assert set(few.labels) < set(more.labels)
    texts = more.x_train + more.x_test
    assert len(set(texts)) == len(texts) > 500
    smallest = few.y_train.bincount().min()
    new = [i for i, label in enumerate(more.labels) if label not in few.labels]
    assert all((more.y_train == i).sum() <= smallest + len(few.x_test) for i in new)
    assert 0.1 < len(more.x_test) / len(texts) < 0.3
    assert 1 / 6 < more.majority < 0.5


def test_the_split_is_the_same_every_time_and_for_any_number_of_topics():
    few, more = topics(3), topics(6)
    assert few.x_test == topics(3).x_test
    assert set(few.x_test) <= set(more.x_test)
    assert set(few.x_train) <= set(more.x_train)


def test_a_python_without_its_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="comes without its documentation topics"):
        topics(3)


@pytest.mark.parametrize("count", [1, 100_000])
def test_a_number_of_topics_that_there_is_not(count):
    with pytest.raises(DataError, match=f"topics: found {count}; expected 2 to"):
        topics(count)


@pytest.mark.parametrize(("length", "warned"), [(None, False), (12, True)])
def test_what_is_cut_of_the_bundled_texts_is_a_warning_only_at_a_length_of_ones_own(length, warned):
    data = TextDataModule(length=length)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup()
    assert bool(caught) == warned
    assert "words that are not among the" in data.notes["test"]
