"""Text classification as a LightningDataModule: sequences of word numbers, in an order that the seed alone decides."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from ts_lightning.amount import amount
from ts_lightning.errors import DataError, expect
from ts_lightning.recipes.data.order import ordering
from ts_lightning.recipes.data.pretrained import pretrained, rows, splitter
from ts_lightning.recipes.data.text_set import TextSamples, TextSet, held_out
from ts_lightning.recipes.data.text_sources import LABELS, LARGEST, TEXTS, Source, load
from ts_lightning.recipes.data.tokens import Encoded, Split, TextEncoder

_TEST_BATCH = 500
_LENGTH: dict[Source, int] = {"topics": 50, "imdb": 500, "csv": 500, "parquet": 500}


class _Ready(NamedTuple):
    """What is made of the texts, once."""

    texts: TextSet
    encoder: TextEncoder
    train: TextSamples
    validation: TextSamples
    test: TextSamples


class TextDataModule(LightningDataModule):
    """Texts and their classes.

    What is cut, blank or unknown is counted in a warning when the data is read; no text is left out. For ``topics`` at
    their usual length it is information.

    Args:
        source: ``topics`` (sentences of Python's own documentation), ``imdb``, or a ``csv`` or ``parquet`` file.
        root: for ``imdb``, a folder with its Parquet files; ``None`` takes it from the Hugging Face hub.
        file: for ``csv`` and ``parquet``, the training texts.
        test_file: for ``csv`` and ``parquet``, the test texts; without it a fifth of ``file`` is for testing, chosen
            by a hash of the text.
        text_column: name of the column of texts.
        label_column: name of the column of labels, integers or strings.
        largest: for ``topics``, how many of them.
        words: words in the vocabulary at most, the most frequent of the training texts.
        length: words of a text that are used at most, its last ones; also the length of a sequence if any training
            text is as long. Default 50 for ``topics``, nearly all of nearly every sentence, and 500 for others, the
            paper's for IMDB.
        validation: share of the training texts, 0 to below 1, that validation measures and training leaves out, chosen
            by a hash of the text; 0 validates on the test texts.
        batch_size: texts in a training batch.
        seed: for the order of the training data; default the run's (seed_everything).
        split: how words are split: the name of one of torchtext's tokenizers, as ``basic_english``, or a function from
            a text to its words. Default: all runs of letters and digits, in small letters.
        vocab: a ``torchtext.vocab.Vocab`` to use for the words; needs ``split``, and ``words`` is then unused.
        vectors: pretrained vectors that an embedding starts from: a file or a name that torchtext reads or downloads,
            as ``glove.6B.100d``, a ``torchtext.vocab.Vectors``, or a ``Vocab`` that has some.

    Attributes:
        notes: what was cut, blank or unknown, by the split of the texts; filled when the data is read.

    Raises:
        SettingError: a size out of range.
        DataError: from :meth:`setup`, the data is missing or unusable.
    """

    def __init__(
        self,
        source: Source = "topics",
        root: Path | str | None = None,
        file: Path | str | None = None,
        test_file: Path | str | None = None,
        text_column: str = TEXTS,
        label_column: str = LABELS,
        largest: int = LARGEST,
        words: int = 5000,
        length: int | None = None,
        validation: float = 0.0,
        batch_size: int = 40,
        seed: int | None = None,
        split: str | Split | None = None,
        vocab: Any = None,
        vectors: Any = None,
    ) -> None:
        super().__init__()
        if vocab is not None and split is None:
            raise DataError("vocab: found no split; expected the function that split words when it was made.")
        self._usual = source == "topics" and length is None
        self.notes: dict[str, str] = {}
        length = _LENGTH[source] if length is None else length
        for option, value, minimum in (("words", words, 3), ("length", length, 1), ("batch_size", batch_size, 1)):
            expect(option, value, minimum)
        expect("validation", validation, 0, below=1)
        self.source: Source = source
        self.root = None if root is None else Path(root)
        self.file = None if file is None else Path(file)
        self.test_file = None if test_file is None else Path(test_file)
        self.text_column = text_column
        self.label_column = label_column
        self.largest = largest
        self.words = words
        self.length = length
        self.validation = validation
        self.batch_size = batch_size
        self.seed = seed
        self.tokenizer = split if isinstance(split, str) else None
        self.split = splitter(split) if isinstance(split, str) else split
        self.vocab = vocab
        self.vectors = pretrained(vectors) if isinstance(vectors, str) else vectors
        self._ready: _Ready | None = None

    @property
    def texts(self) -> TextSet:
        """Training and test texts and their classes; read on first use."""
        return self._read().texts

    @property
    def validates_on(self) -> Literal["val", "test"]:
        """The data that validation measures."""
        return "val" if self.validation else "test"

    @property
    def validation_texts(self) -> int:
        """How many texts validation measures that no training batch has; 0 where these are the test texts."""
        return len(self._read().validation) if self.validation else 0

    @property
    def labels(self) -> list[str]:
        """The label of each class."""
        return self.texts.labels

    @property
    def encoder(self) -> TextEncoder:
        """From texts to sequences; made from the training texts on first use."""
        return self._read().encoder

    def embeddings(self) -> tuple[Tensor, Tensor] | None:
        """The pretrained vectors of the encoder's words (words, dimension), and (words,) which have one."""
        return None if self.vectors is None else rows(self.vectors, self.encoder.words)

    def setup(self, stage: str | None = None) -> None:
        """Read, check and encode the texts, once."""
        self._read()

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Shuffled batches: x (batch, length) int32, y (batch,) int64."""
        return DataLoader(self._read().train, self.batch_size, shuffle=True, generator=ordering(self.seed))

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The validation texts, or else the test texts, in order."""
        return DataLoader(self._read().validation, batch_size=_TEST_BATCH)

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test texts, in order."""
        return self.test_dataloader()

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """The test texts, in order."""
        return DataLoader(self._read().test, batch_size=_TEST_BATCH)

    def _read(self) -> _Ready:
        if self._ready is None:
            texts = load(
                self.source, self.root, self.file, self.test_file, self.text_column, self.label_column, self.largest
            )
            texts, x_val, y_val = held_out(texts, self.validation, self.source)
            if self.vocab is not None and self.split is not None:
                encoder = TextEncoder.from_vocab(self.vocab, texts.x_train, self.length, self.split)
            else:
                encoder = TextEncoder.learn(texts.x_train, self.words, self.length, self.split)
            parts = {"training": (texts.x_train, texts.y_train), "validation": (x_val, y_val)}
            parts["test"] = texts.x_test, texts.y_test
            made = {}
            for name, (x, y) in parts.items():
                encoded = encoder(x)
                if said := remarks(encoded, encoder):
                    self.notes[name] = "; ".join(said)
                    text = f"{amount(len(x), f'{name} text')}: {self.notes[name]}."
                    if self._usual:
                        rank_zero_info(text)
                    else:
                        warnings.warn(text, stacklevel=4)
                made[name] = TextSamples(encoded.ids, y, x)
            measured = made["validation" if self.validation else "test"]
            self._ready = _Ready(texts, encoder, made["training"], measured, made["test"])
        return self._ready


def remarks(encoded: Encoded, encoder: TextEncoder) -> list[str]:
    """What was cut, blank or unknown in texts, counted."""
    result = []
    if encoded.cut:
        result.append(f"{encoded.cut:,} longer than {encoder.length} words, of which the last ones are used")
    if encoded.unknown:
        share = encoded.unknown / encoded.tokens
        result.append(
            f"words that are not among the {len(encoder.words):,} of the vocabulary: {encoded.unknown:,} ({share:.1%})"
        )
    if encoded.blank:
        result.append(f"{encoded.blank:,} without any known word")
    return result
