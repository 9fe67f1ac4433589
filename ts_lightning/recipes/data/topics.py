"""Real English text that every Python brings along: the topics of its own documentation, sentence by sentence.

CPython ships the text behind ``help("if")`` as ``pydoc_data.topics``, a dictionary from topic to a page of text. The
sentences of its largest topics, each labelled with its topic, are a small text classification task that needs no
network. Pages overlap and differ between Python versions, and so do the counts.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping

from ts_lightning.errors import DataError
from ts_lightning.recipes.data.text_set import TextSet, split_by_hash

_UNDERLINE = re.compile(r"(.)\1+")
_BULLET = re.compile(r"^(?:[*-]|\d+\.) ")
_END = re.compile(r"(?<=[.?!]) (?=[A-Z\"*(])")
#: a shorter one says little about its topic: "See also:", "New in version 3.3."
_FEWEST_WORDS = 5


def topics(count: int) -> TextSet:
    """Sentences of the largest topics of Python's documentation, a fifth of them for testing.

    A page may hold other pages. Going from the largest page to the smallest, a sentence belongs to the first one that
    has it, so that no sentence has two labels or occurs twice.

    Args:
        count: how many topics; those with the most sentences of their own are taken.

    Raises:
        DataError: this Python comes without the topics, or there are fewer.
    """
    try:
        pages: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise DataError(
            f"topics: this Python comes without its documentation topics ({error}). Use another Python, or texts of "
            f"your own with --data.source csv."
        ) from error
    if not 2 <= count <= len(pages):
        raise DataError(f"topics: found {count}; expected 2 to {len(pages)}, the topics of this Python.")
    found = {topic: sentences(page) for topic, page in pages.items()}
    own: dict[str, list[str]] = {}
    seen: set[str] = set()
    for topic in sorted(found, key=lambda topic: (-len(found[topic]), topic)):
        own[topic] = [sentence for sentence in dict.fromkeys(found[topic]) if sentence not in seen]
        seen.update(own[topic])
    largest = sorted(own, key=lambda topic: (-len(own[topic]), topic))[:count]
    pairs = [(sentence, topic) for topic in largest for sentence in own[topic]]
    texts, labels = zip(*pairs, strict=True)
    return split_by_hash(texts, labels, "topics")


def sentences(page: str) -> list[str]:
    """The sentences of a page of reStructuredText: headings, code and what has fewer than five words are left out."""
    result: list[str] = []
    for block in re.split(r"\n\s*\n", page):
        if _UNDERLINE.fullmatch(block.strip().rpartition("\n")[2]):
            continue
        for sentence in _END.split(_BULLET.sub("", " ".join(block.split()))):
            if sentence[:1].isupper() and sentence[-1] in ".?!:" and len(sentence.split()) >= _FEWEST_WORDS:
                result.append(sentence)
    return result
