"""Texts and labels, checked and brought to one form: lists of strings, and classes 0, 1, ... in int64."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ts_lightning.amount import amount
from ts_lightning.errors import DataError

#: where there is no test split, one text of this many becomes a test text
_TEST_SHARE = 5


@dataclass(frozen=True)
class TextSet:
    """Texts and their classes, split into training and test.

    Attributes:
        x_train: training texts.
        y_train: training classes (N,), int64.
        x_test: test texts.
        y_test: test classes, as ``y_train``.
        labels: the label of each class: integers in order of size, strings in alphabetical order.
    """

    x_train: list[str]
    y_train: Tensor
    x_test: list[str]
    y_test: Tensor
    labels: list[str]

    @property
    def majority(self) -> float:
        """The test accuracy of always answering the most frequent training class."""
        frequent = self.y_train.bincount(minlength=len(self.labels)).argmax()
        return float((self.y_test == frequent).float().mean())


class TextSamples(TensorDataset):
    """Encoded texts and their classes, and beside them the texts as they were.

    Args:
        x: sequences (N, length).
        y: classes (N,).
        texts: the text of each sample.
    """

    def __init__(self, x: Tensor, y: Tensor, texts: Sequence[str]) -> None:
        super().__init__(x, y)
        self.texts = texts


def text_set(
    x_train: Sequence[Any], y_train: Sequence[Any], x_test: Sequence[Any], y_test: Sequence[Any], source: str
) -> TextSet:
    """Check texts and labels and bring them to one form.

    Args:
        x_train: strings.
        y_train: labels, all integers or all strings.
        x_test: as ``x_train``.
        y_test: labels that occur in training.
        source: where the texts come from, for the errors.

    Raises:
        DataError: a split is empty, something is no string or no label, there is one class only, or a test label does
            not occur in training.
    """
    _check(x_train, y_train, source, "training ")
    _check(x_test, y_test, source, "test ")
    known = set(y_train)
    unseen = {label: y_test.count(label) for label in sorted(set(y_test) - known, key=str)}
    if unseen:
        found = ", ".join(f"{label!r} ({amount(count, 'text')})" for label, count in list(unseen.items())[:5])
        more = f" and {len(unseen) - 5} more" if len(unseen) > 5 else ""
        raise DataError(
            f"{source}: found labels in the test texts that no training text has: {found}{more}. Expected every class "
            f"in training: add texts of it there, or take it out of the test texts."
        )
    if len(known) < 2:
        raise DataError(f"{source}: found only the label {y_train[0]!r}; expected at least two classes.")
    classes = sorted(known)
    number = {label: i for i, label in enumerate(classes)}
    return TextSet(
        list(x_train),
        torch.tensor([number[label] for label in y_train]),
        list(x_test),
        torch.tensor([number[label] for label in y_test]),
        [str(label) for label in classes],
    )


def split_by_hash(texts: Sequence[str], labels: Sequence[Any], source: str) -> TextSet:
    """Texts without a test split: a fifth of them, chosen by a hash of the text, is for testing.

    The same text is in the same split on every machine, and two equal texts are never in different ones.

    Raises:
        DataError: as :func:`text_set`.
    """
    _check(texts, labels, source)
    test = [_hash(text) % _TEST_SHARE == 0 for text in texts]
    train_rows = [i for i, is_test in enumerate(test) if not is_test]
    test_rows = [i for i, is_test in enumerate(test) if is_test]
    if not train_rows or not test_rows:
        raise DataError(
            f"{source}: found {amount(len(texts), 'text')}, too few to set a fifth aside for testing. Expected more, "
            f"or test texts of their own."
        )
    parts = [[column[i] for i in rows] for rows in (train_rows, test_rows) for column in (texts, labels)]
    return text_set(parts[0], parts[1], parts[2], parts[3], source)


def held_out(texts: TextSet, share: float, source: str) -> tuple[TextSet, list[str], Tensor]:
    """Take a share of the training texts out for validation, chosen by a hash of the text as in :func:`split_by_hash`.

    Args:
        texts: training and test texts.
        share: of the training texts, 0 to below 1.
        source: where the texts come from, for the error.

    Returns:
        What is left, the validation texts and their classes (N,), int64.

    Raises:
        DataError: no text would be left on one side, or none of a class for training.
    """
    # what the choice of test texts leaves of the hash
    chosen = [_hash(text) // _TEST_SHARE % 1000 < 1000 * share for text in texts.x_train]
    if share > 0 and (all(chosen) or not any(chosen)):
        raise DataError(
            f"{source}: found {amount(len(chosen), 'training text')}, too few to hold out a share of {share:g} for "
            f"validation. Expected more, or --data.validation 0, which validates on the test texts."
        )
    left, out = ([i for i, it in enumerate(chosen) if it == side] for side in (False, True))
    train = replace(texts, x_train=[texts.x_train[i] for i in left], y_train=texts.y_train[left])
    if lost := sorted(set(texts.y_train.tolist()) - set(train.y_train.tolist())):
        raise DataError(
            f"{source}: found all texts of {', '.join(repr(texts.labels[label]) for label in lost[:5])} among those "
            f"held out for validation. Expected every class in training: add texts of it, or --data.validation 0, "
            f"which validates on the test texts."
        )
    return train, [texts.x_train[i] for i in out], texts.y_train[out]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big")


def _check(texts: Sequence[Any], labels: Sequence[Any], source: str, split: str = "") -> None:
    """Raise if these are not texts and labels; ``split`` is ``training ``, ``test `` or empty."""
    if len(texts) == 0:
        raise DataError(f"{source}: found no {split}texts; expected at least one.")
    for row, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise DataError(f"{source}: found {_what(text)} as {split}text {row}; expected a string.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"{source}: {split}text {row} is not valid Unicode (a lone surrogate); expected UTF-8 text."
            )
    for row, label in enumerate(labels, 1):
        if type(label) not in (int, str) or label == "":
            raise DataError(
                f"{source}: found {_what(label)} as the label of {split}text {row}; expected integers or strings."
            )
    if len({type(label) for label in labels}) > 1:
        raise DataError(f"{source}: found integers and strings among the {split}labels; expected one of them.")


def _what(value: Any) -> str:
    return "nothing" if value is None or value == "" else f"{value!r} ({type(value).__name__})"
