"""The network that lstm_nlp trains, and the classifier around it, whose checkpoint can read new text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ts_lightning import ReferenceConfig, TargetSpaceConfig
from ts_lightning.data.pretrained import splitter
from ts_lightning.data.tokens import TextEncoder
from ts_lightning.recipes._classifier import Classifier
from ts_lightning.recipes._recurrent import Cell, recurrent

Reference = Literal["noise", "embeddings"]
#: as many reference sequences as the paper has for IMDB
TARGET_SPACE = TargetSpaceConfig(reference=ReferenceConfig(size=40))
#: Adam's learning rate in each space
LEARNING_RATES = {"target": 0.002, "weight": 0.001}
_EMBEDDING_STD = 0.1
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
        """Numbers of words, in their shape."""
        if not self.training or self.share == 0:
            return tokens
        dropped = (torch.rand(tokens.shape, device=tokens.device) < self.share) & (tokens != self.pad)
        return tokens.masked_fill(dropped, self.unknown)


class TextNetwork(nn.Module):
    """An embedding, a recurrent layer, and a dense readout of its state at the last step.

    Args:
        words: the size of the vocabulary.
        pad: the number of padding, whose embedding is 0 and stays so.
        unknown: the number of the unknown word.
        classes: the number of classes.
        cell: the kind of recurrent layer.
        embedding: features of a word.
        units: the width of the recurrent layer's state.
        dropout: share of words that are replaced by the unknown one in training.
    """

    def __init__(
        self,
        words: int,
        pad: int,
        unknown: int,
        classes: int,
        cell: Cell,
        embedding: int,
        units: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.dropout = WordDropout(dropout, pad, unknown)
        self.embedding = nn.Embedding(words, embedding, padding_idx=pad)
        self.recurrent = recurrent(cell, embedding, units)
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

    Args:
        tokenizer: from texts to numbers: the JSON of a :class:`ts_lightning.data.tokens.TextEncoder`.
        labels: the label of each class.
        splitter: the name of torchtext's tokenizer that splits words, if one does.
        cell: the kind of recurrent layer.
        embedding: features of a word.
        units: the width of the recurrent layer's state.
        reference: what target space's reference batch is made of. ``embeddings``: training texts, through the
            embedding, which then also gets the solve's gradient. ``noise``: fixed uniform noise in [-1, 1] in the
            place of embeddings (the paper's).
        reference_steps: steps of the reference batch; of texts these are the last ones.
        dropout: share of words that are replaced by the unknown one in training.
        lr: Adam's learning rate.
        target_space: settings of target space; ``None`` trains in weight space.
    """

    network: TextNetwork

    def __init__(
        self,
        tokenizer: str,
        labels: list[str],
        splitter: str | None = None,
        cell: Cell = "lstm",
        embedding: int = 32,
        units: int = 100,
        reference: Reference = "embeddings",
        reference_steps: int = 60,
        dropout: float = 0.0,
        lr: float = LEARNING_RATES["target"],
        target_space: TargetSpaceConfig | None = TARGET_SPACE,
    ) -> None:
        encoder = TextEncoder.from_json(tokenizer, _split(splitter))
        words, pad, unknown = len(encoder.words), encoder.pad, encoder.unknown
        network = TextNetwork(words, pad, unknown, len(labels), cell, embedding, units, dropout)
        super().__init__(network, len(labels), lr, target_space)
        self.save_hyperparameters(ignore=["target_space"], logger=False)
        self.encoder = encoder
        self.labels = labels
        self.reference = reference
        self.reference_steps = reference_steps

    def reference_batch(self) -> Any:
        """Numbers of words (size, steps), or noise (size, steps, embedding)."""
        tokens, _ = super().reference_batch()
        if self.reference == "embeddings":
            return tokens[:, -self.reference_steps :]
        generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        shape = (len(tokens), self.reference_steps, self.network.embedding.embedding_dim)
        return 2 * torch.rand(shape, generator=generator) - 1

    def reference_forward(self, batch: Any) -> Any:
        """The network on the reference batch; noise enters behind the embedding."""
        return self(batch) if self.reference == "embeddings" else self.network.read(batch)

    @torch.no_grad()
    def probabilities(self, texts: Sequence[str]) -> Tensor:
        """The probability of each class (texts, classes), in the order of ``labels``."""
        self.eval()
        tokens = self.encoder(texts).ids.to(self.device)
        return torch.cat([self(part).softmax(dim=1).cpu() for part in torch.split(tokens, _BATCH)])


def _split(name: str | None) -> Any:
    return None if name is None else splitter(name)
