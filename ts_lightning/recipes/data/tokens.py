"""Text to numbers: words, the vocabulary of the most frequent ones, and sequences of one length.

A text longer than the length loses its beginning and a shorter one is padded at the beginning, so that its last word
stands at the last step, where a recurrent network has read it all. Words and vocabulary are a tokenizer of the
``tokenizers`` library, whose JSON text holds everything that classifying new text needs; words may also be split by a
function instead, and the vocabulary be torchtext's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ts_lightning.amount import amount
from ts_lightning.errors import DataError
from ts_lightning.optional import imported

#: a text to its words
Split = Callable[[str], list[str]]
PAD, UNKNOWN = "[PAD]", "[UNK]"
#: letters and digits, with apostrophes inside; all else separates words
_WORD = r"\w+(?:'\w+)*"
_CHUNK = 1000
_LONG_WORK = 10_000


@dataclass(frozen=True)
class Encoded:
    """Texts as sequences of numbers, and counts of what was lost.

    Attributes:
        ids: (N, length) int32.
        cut: how many texts were longer than the length and lost their beginning.
        blank: how many have no word that the vocabulary knows.
        tokens: words in ``ids``, padding not counted.
        unknown: how many of them the vocabulary does not know.
    """

    ids: Tensor
    cut: int
    blank: int
    tokens: int
    unknown: int


class TextEncoder:
    """Turns texts into sequences of numbers; see :meth:`learn`, :meth:`from_vocab` and :meth:`from_json`.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` with padding and truncation.
        split: how words are split, if not by the tokenizer.

    Attributes:
        length: numbers in a sequence.
        words: every word, in the order of the numbers.
        pad: the number of padding.
        unknown: the number of every word that is not in the vocabulary.
    """

    def __init__(self, tokenizer: Any, split: Split | None = None) -> None:
        tokenizer.encode_special_tokens = True  # "[PAD]" in a text is the word "pad"
        self._tokenizer = tokenizer
        self._split = split
        self.length: int = tokenizer.padding["length"]
        self.pad: int = tokenizer.padding["pad_id"]
        self.unknown: int = tokenizer.token_to_id(tokenizer.model.unk_token)
        self.words = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]

    @classmethod
    def learn(cls, texts: Sequence[str], size: int, limit: int, split: Split | None = None) -> TextEncoder:
        """A vocabulary of the most frequent words of texts.

        Args:
            texts: the training texts.
            size: words in the vocabulary at most, the padding and the unknown word among them; at least 3.
            limit: the largest length; a smaller one is taken if no text is longer.
            split: how words are split; by default a word is letters and digits, in small letters.

        Raises:
            DataError: no text has a word.
        """
        library = imported("tokenizers", "tokenizers")
        tokenizer = library.Tokenizer(library.models.WordLevel(unk_token=UNKNOWN))
        if split is None:
            normal = library.normalizers
            tokenizer.normalizer = normal.Sequence([normal.NFC(), normal.Lowercase(), normal.Replace("\u2019", "'")])
            pieces = library.pre_tokenizers
            tokenizer.pre_tokenizer = pieces.Split(library.Regex(_WORD), behavior="removed", invert=True)
            counted: Iterator[list[str]] = _chunks(texts, "counting words")
        else:
            counted = ([word for text in chunk for word in split(text)] for chunk in _chunks(texts, "counting words"))
        trainer = library.trainers.WordLevelTrainer(vocab_size=size, special_tokens=[PAD, UNKNOWN], show_progress=False)
        tokenizer.train_from_iterator(counted, trainer)
        if tokenizer.get_vocab_size() == 2:
            raise DataError(f"found no word in {amount(len(texts), 'training text')}; expected letters or digits.")
        return cls(_of_length(tokenizer, 0, PAD, texts, limit, split), split)

    @classmethod
    def from_vocab(cls, vocab: Any, texts: Sequence[str], limit: int, split: Split) -> TextEncoder:
        """The words and numbers of a torchtext vocabulary.

        Args:
            vocab: a ``torchtext.vocab.Vocab`` of release 0.6.0 with ``<unk>`` and ``<pad>``.
            texts: the training texts.
            limit: the largest length; a smaller one is taken if no text is longer.
            split: how words are split, as they were when the vocabulary was made.

        Raises:
            DataError: the vocabulary has no word for what is unknown or for padding.
        """
        library = imported("tokenizers", "tokenizers")
        numbers = {word: i for i, word in enumerate(vocab.itos)}
        missing = [word for word in ("<unk>", "<pad>") if word not in numbers]
        if missing:
            raise DataError(
                f"vocab: found no {' and no '.join(missing)} in it; expected torchtext's default specials, "
                f"Vocab(counter, specials=['<unk>', '<pad>'])."
            )
        tokenizer = library.Tokenizer(library.models.WordLevel(numbers, unk_token="<unk>"))
        return cls(_of_length(tokenizer, numbers["<pad>"], "<pad>", texts, limit, split), split)

    @classmethod
    def from_json(cls, text: str, split: Split | None = None) -> TextEncoder:
        """The encoder that :meth:`to_json` wrote.

        Args:
            text: JSON, as the ``tokenizers`` library reads it.
            split: the function that split words, if there was one.
        """
        return cls(imported("tokenizers", "tokenizers").Tokenizer.from_str(text), split)

    def to_json(self) -> str:
        """Vocabulary, length and all else but a function that splits words, as JSON."""
        text: str = self._tokenizer.to_str()
        return text

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Encode texts; none is left out."""
        ids = np.full((len(texts), self.length), self.pad, dtype=np.int32)
        cut = row = 0
        for chunk in _chunks(texts, "encoding"):
            for encoding in _encoded(self._tokenizer, chunk, self._split):
                ids[row] = encoding.ids
                cut += len(encoding.overflowing) > 0
                row += 1
        known = ((ids != self.pad) & (ids != self.unknown)).sum(axis=1)
        tokens, unknown = int((ids != self.pad).sum()), int((ids == self.unknown).sum())
        return Encoded(torch.from_numpy(ids), cut, int((known == 0).sum()), tokens, unknown)


def _of_length(tokenizer: Any, pad: int, pad_word: str, texts: Sequence[str], limit: int, split: Split | None) -> Any:
    """The tokenizer with padding and truncation on the left, to ``limit`` or to the longest of the texts."""
    tokenizer.enable_truncation(limit, direction="left")
    longest = 1
    for chunk in _chunks(texts, "measuring lengths"):
        longest = max(longest, *(len(encoding.ids) for encoding in _encoded(tokenizer, chunk, split)))
        if longest == limit:
            break
    tokenizer.enable_truncation(longest, direction="left")
    tokenizer.enable_padding(direction="left", length=longest, pad_id=pad, pad_token=pad_word)
    return tokenizer


def _encoded(tokenizer: Any, texts: list[str], split: Split | None) -> list[Any]:
    if split is None:
        encodings: list[Any] = tokenizer.encode_batch_fast(texts)
    else:
        encodings = tokenizer.encode_batch_fast([split(text) for text in texts], is_pretokenized=True)
    return encodings


def _chunks(texts: Sequence[str], doing: str) -> Iterator[list[str]]:
    """The texts in chunks, since encodings take much memory; with a progress bar if there are many texts."""
    starts = range(0, len(texts), _CHUNK)
    for start in tqdm(starts, desc=doing, leave=False, disable=len(texts) < _LONG_WORK):
        yield list(texts[start : start + _CHUNK])
