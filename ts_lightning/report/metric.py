"""What a metric's name tells: what is measured, on which data, and whether small or large values are good.

Modules name their metrics as they like (``test/accuracy``, ``val_loss``, ``train_loss_step``), so this is read from the
words in the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Split = Literal["training", "validation", "test"]

_SPLITS: dict[str, Split] = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}
#: endings of words for what is best when smallest, and whole words
_SMALL_ENDINGS = ("loss", "error", "entropy", "distance", "perplexity", "regret")
_SMALL_WORDS = {"err", "mse", "mae", "rmse", "mape", "msle", "nll", "ppl", "bpc", "bpd", "kl", "fid", "cer", "wer"}


@dataclass(frozen=True)
class Metric:
    """A metric by its name.

    Attributes:
        name: as it was logged.
        quantity: what is measured, without the data it is measured on: ``loss`` for ``train_loss_step``.
        split: the data.
        per: ``step`` or ``epoch`` where Lightning logged both under one name, else empty.
    """

    name: str
    quantity: str
    split: Split
    per: str

    @classmethod
    def of(cls, name: str, default: Split = "training") -> Metric:
        """Read a name.

        Args:
            name: as it was logged.
            default: the split of a metric whose name does not tell.
        """
        words = _words(name)
        per = words.pop() if len(words) > 1 and words[-1] in ("step", "epoch") else ""
        split = default
        for place in (0, -1):
            if words and words[place] in _SPLITS:
                split = _SPLITS[words.pop(place)]
                break
        return cls(name, " ".join(words) or name, split, per)

    @property
    def label(self) -> str:
        """The name in words."""
        return " ".join(re.split(r"[/_]+", self.name)).strip()

    @property
    def smaller_is_better(self) -> bool:
        """Whether it is a loss or an error."""
        return any(word.endswith(_SMALL_ENDINGS) or word in _SMALL_WORDS for word in self.quantity.split())

    @property
    def is_accuracy(self) -> bool:
        """Whether it is an accuracy."""
        return not self.smaller_is_better and any(
            re.fullmatch(r"(top\d*)?acc(uracy)?\d*", word) for word in self.quantity.split()
        )

    def reaches(self, value: float, level: float) -> bool:
        """Whether ``value`` is as good as ``level``."""
        return value <= level if self.smaller_is_better else value >= level


def _words(name: str) -> list[str]:
    """The words of a name, in lower case: ``valLoss`` and ``val/loss`` have two."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[\W_]+", spaced) if word]
