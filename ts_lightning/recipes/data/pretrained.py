"""torchtext's tokenizers and pretrained vectors, by name. Release 0.6.0, the ``torchtext`` extra.

Later releases are compiled against one release of torch; 0.6.0 is pure Python and works beside any.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ts_lightning.errors import DataError, first_line
from ts_lightning.optional import imported
from ts_lightning.recipes.data.tokens import Split

_INSTALL = "pip install 'ts-lightning[torchtext]'"


def splitter(name: str) -> Split:
    """One of torchtext's tokenizers, such as ``basic_english``.

    Raises:
        DataError: torchtext or what this tokenizer needs is not installed, or there is no tokenizer of that name.
    """
    utils = imported("torchtext.data.utils", "torchtext", _INSTALL)
    try:
        split = utils.get_tokenizer(name)
        return lambda text: list(split(text))
    except (ImportError, LookupError, OSError, ValueError) as error:
        raise DataError(
            f"--data.split {name}: torchtext gives no such tokenizer ({first_line(error)}). Expected "
            f"basic_english, or one whose package is installed (spacy, moses, toktok, revtok, subword)."
        ) from error


def pretrained(name: str) -> Any:
    """Pretrained vectors: a file of them, or a name that torchtext downloads, such as ``glove.6B.100d``.

    Raises:
        DataError: torchtext is not installed, there is no such file or name, or it cannot be read or fetched.
    """
    vocab = imported("torchtext.vocab", "torchtext", _INSTALL)
    path = Path(name)
    if not path.is_file() and name not in vocab.pretrained_aliases:
        raise DataError(
            f"--data.vectors {name}: found no such file; expected one (a word and its numbers in each line), or one of "
            f"{', '.join(vocab.pretrained_aliases)}."
        )
    try:
        if not path.is_file():
            return vocab.pretrained_aliases[name]()
        # torchtext keeps a binary copy, and would read it again after the file has changed
        with tempfile.TemporaryDirectory() as cache:
            return vocab.Vectors(name, cache=cache)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"--data.vectors {name}: could not be read or fetched ({first_line(error)}).") from error


def rows(vectors: Any, words: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The vectors of words.

    Args:
        vectors: a ``torchtext.vocab.Vectors``, or a ``Vocab`` that has vectors loaded.
        words: the vocabulary.

    Returns:
        Vectors (words, dimension), and (words,) whether there is one; it is zero where there is none.

    Raises:
        DataError: a Vocab without vectors.
    """
    if vectors.vectors is None:
        raise DataError("vectors: found a Vocab without any; load them with vocab.load_vectors(...).")
    found = torch.tensor([word in vectors.stoi for word in words])
    table = torch.zeros(len(words), vectors.vectors.shape[1])
    table[found] = vectors.vectors[[vectors.stoi[word] for word in words if word in vectors.stoi]].float()
    return table, found
