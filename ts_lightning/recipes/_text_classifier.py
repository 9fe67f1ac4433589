"""The network that lstm_nlp trains, and the classifier around it, whose checkpoint can read new text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from ts_lightning.amount import amount
from ts_lightning.config import ReferenceConfig, TargetSpaceConfig
from ts_lightning.errors import SettingError, expect
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._recurrent import Cell, recurrent
from ts_lightning.recipes.data import TextDataModule
from ts_lightning.recipes.data.pretrained import splitter as split_by
from ts_lightning.recipes.data.tokens import TextEncoder

Reference = Literal["noise", "embeddings"]
#: Adam's learning rates in target and in weight space: the best of the same trials in both by the last validation
#: accuracy on topics, of one layer of 100 units (docs/recipes/lstm_nlp.md has all trials)
_RATES: dict[Cell, tuple[float, float]] = {"rnn": (0.008, 0.008), "lstm": (0.004, 0.008), "gru": (0.004, 0.008)}
_EMBEDDING, _EMBEDDING_STD = 32, 0.1
_BATCH = 500


class WordDropout(nn.Module):
    """Replaces words at random by the unknown one, in training only (Iyyer et al., ACL 2015).

    Args:
        share: probability that a word is replaced.
        pad: the number of padding, which stays.
        unknown: the number of the unknown word.
    """

    def __init__(self, share: float, pad: int, unknown: int) -> None:
        super().__init__()
        self.share, self.pad, self.unknown = share, pad, unknown

    def forward(self, tokens: Tensor) -> Tensor:
        """Numbers of words, some of them replaced, in the shape of ``tokens``."""
        if not self.training or self.share == 0:
            return tokens
        dropped = (torch.rand(tokens.shape, device=tokens.device) < self.share) & (tokens != self.pad)
        return tokens.masked_fill(dropped, self.unknown)


class TextNetwork(nn.Module):
    """An embedding, a stack of recurrent layers, and a dense readout of the last one's state at the last step.

    Args:
        words: the size of the vocabulary.
        pad: the number of padding, whose embedding is 0 and stays so.
        unknown: the number of the unknown word.
        classes: the number of classes.
        cell: the kind of recurrent layers.
        layers: how many recurrent layers.
        embedding: features of a word.
        units: the width of a recurrent layer's state.
        dropout: share of words that are replaced by the unknown one in training.
    """

    def __init__(
        self,
        words: int,
        pad: int,
        unknown: int,
        classes: int,
        cell: Cell,
        layers: int,
        embedding: int,
        units: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = WordDropout(dropout, pad, unknown)
        self.embedding = nn.Embedding(words, embedding, padding_idx=pad)
        self.recurrent = recurrent(cell, embedding, units, layers)
        self.readout = nn.Linear(units, classes)
        nn.init.trunc_normal_(self.embedding.weight, std=_EMBEDDING_STD, a=-2 * _EMBEDDING_STD, b=2 * _EMBEDDING_STD)
        with torch.no_grad():
            self.embedding.weight[pad] = 0
        nn.init.xavier_uniform_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (batch, classes) for numbers of words (batch, steps)."""
        return self.read(self.embedding(self.dropout(tokens)))

    def read(self, features: Tensor) -> Tensor:
        """Logits (batch, classes) for features of words (batch, steps, embedding)."""
        states, _ = self.recurrent(features)
        logits: Tensor = self.readout(states[:, -1])
        return logits


class TextClassifier(Classifier):
    """A classifier of texts that holds all it needs to read new ones.

    Its reference batch has 40 sequences, as many as the paper has for IMDB.

    Args:
        tokenizer: from texts to numbers, the JSON of a ``TextEncoder``; default that of the data.
        labels: the label of each class; default those of the data.
        splitter: the name of torchtext's tokenizer that splits words, if one does; default that of the data.
        cell: the recurrent layers - rnn is the vanilla one with tanh.
        layers: how many recurrent layers, each on the states of the one below.
        embedding: features of a word; those of pretrained vectors, where the data has some.
        units: of each recurrent layer.
        reference: what target space's reference batch is made of - embeddings are those of training texts, which then
            also get the solve's gradient; noise is uniform in -1 to 1 in the place of embeddings, as in the paper.
        reference_steps: steps of the reference batch; of texts these are the last ones.
        dropout: share of words, 0 to below 1, that are replaced by the unknown one in training.
        lr: Adam's learning rate; default 0.008, but in target space 0.004 for the cells lstm and gru.
    """

    target_space = TargetSpaceConfig(reference=ReferenceConfig(size=40))
    network: TextNetwork

    def __init__(
        self,
        tokenizer: str | None = None,
        labels: list[str] | None = None,
        splitter: str | None = None,
        cell: Cell = "rnn",
        layers: int = 1,
        embedding: int = _EMBEDDING,
        units: int = 100,
        reference: Reference = "embeddings",
        reference_steps: int = 60,
        dropout: float = 0.0,
        lr: float | None = None,
    ) -> None:
        super().__init__(lr)
        self.save_hyperparameters(logger=False)
        self.lr_target, self.lr_weight = _RATES[cell]
        sizes = {"layers": layers, "embedding": embedding, "units": units, "reference_steps": reference_steps}
        for option, value in sizes.items():
            expect(option, value, 1)
        expect("dropout", dropout, 0, below=1)
        of_data = {"tokenizer": tokenizer, "labels": labels, "splitter": splitter}
        given = [option for option, value in of_data.items() if value is not None]
        if given and (tokenizer is None or labels is None):
            raise SettingError(
                f"--model.{given[0]}: found no {'tokenizer' if tokenizer is None else 'labels'} beside it. Expected "
                f"both, or neither, which takes those of the data."
            )
        if tokenizer is not None and labels is not None:
            self._read_with(TextEncoder.from_json(tokenizer, None if splitter is None else split_by(splitter)), labels)

    def check_data(self, data: Any) -> None:
        """Refuse texts of other classes, and those whose words have other numbers."""
        if hasattr(self, "network") and isinstance(data, TextDataModule):
            self.expect_of_data("labels", self.labels == data.labels, data.labels)
            if self.encoder.words != data.encoder.words:
                found = amount(len(self.encoder.words), "word")
                raise SettingError(
                    f"The module was trained with {found}, and those of the data are {len(data.encoder.words):,} "
                    f"others. Expected the training texts that it was made for; the command predict takes any others."
                )

    def build_for_data(self) -> None:
        """Build the network for the data's encoder and labels, and start from its pretrained vectors if it has any."""
        data = self.described(TextDataModule)
        start = data.embeddings()
        if start is not None:
            features = start[0].shape[1]
            self.expect_of_data("embedding", self.given.embedding in (_EMBEDDING, features), features)
            self.given.update(embedding=features)
        self.given.update(tokenizer=data.encoder.to_json(), labels=data.labels, splitter=data.tokenizer)
        self._read_with(data.encoder, data.labels)
        if start is not None:
            vectors, found = start
            with torch.no_grad():
                self.network.embedding.weight[found] = vectors[found]

    def _read_with(self, encoder: TextEncoder, labels: list[str]) -> None:
        self.encoder, self.labels = encoder, labels
        words, pad, unknown, given = len(encoder.words), encoder.pad, encoder.unknown, self.given
        network = TextNetwork(
            *(words, pad, unknown, len(labels), given.cell, given.layers, given.embedding, given.units, given.dropout)
        )
        self.build(network, len(labels))

    def reference_batch(self) -> Any:
        """Numbers of words (size, steps), or noise (size, steps, embedding)."""
        tokens, _ = super().reference_batch()
        if self.given.reference == "embeddings":
            return tokens[:, -self.given.reference_steps :]
        assert self.target_space is not None
        for name, usual in (("selection", "first"), ("refresh", None)):
            if (found := getattr(self.target_space.reference, name)) != usual:
                rank_zero_warn(
                    f"--target_space.reference.{name} {found}: without effect beside --model.reference noise, which "
                    f"takes no samples. Leave one of the two out."
                )
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        shape = (len(tokens), self.given.reference_steps, self.network.embedding.embedding_dim)
        return 2 * torch.rand(shape, generator=generator) - 1

    def reference_forward(self, batch: Any) -> Any:
        """The network on the reference batch; noise enters behind the embedding."""
        return self(batch) if self.given.reference == "embeddings" else self.network.read(batch)

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """The probability of each class (texts, classes), in the order of ``labels``."""
        self.eval()
        tokens = self.encoder(texts).ids.to(self.device)
        return torch.cat([self(part).softmax(dim=1).cpu() for part in torch.split(tokens, _BATCH)])
