"""Texts classified by recurrent layers: ``python -m ts_lightning.recipes.lstm_nlp``; ``... predict`` for new text."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from ts_lightning.amount import amount
from ts_lightning.callbacks.pictures import ConfusionMatrix, WorstTexts
from ts_lightning.cli import TargetSpaceCLI
from ts_lightning.recipes._predict import predict
from ts_lightning.recipes._recipe import recipe
from ts_lightning.recipes._text_classifier import TextClassifier
from ts_lightning.recipes.data import TextDataModule
from ts_lightning.report import History

_LISTED = 10


class TextCLI(TargetSpaceCLI):
    """The recipe's command line."""

    def title(self) -> str:
        """Data, network and space."""
        data, given = self.datamodule, self.model.given
        name = data.source if data.file is None else data.file.name
        layers = given.cell if given.layers == 1 else amount(given.layers, f"{given.cell} layer")
        return f"{name}, {layers} of {amount(given.units, 'unit')}, {self.spaces}"

    def remarks(self, history: History) -> dict[str, str]:
        """What the accuracy is to be compared with, and how to classify new text."""
        texts, more = self.datamodule.texts, len(self.datamodule.labels) - _LISTED
        listed = ", ".join(texts.labels[:_LISTED]) + (f", and {more} more" if more > 0 else "")
        validation = self.datamodule.validation_texts
        counts = {"training": len(texts.x_train), "validation": validation, "test": len(texts.x_test)}
        result = {
            "majority class": f"{texts.majority:.4f} test accuracy",
            "classes": f"{len(texts.labels)}: {listed}",
            "texts": ", ".join(f"{count:,} {name}" for name, count in counts.items() if count),
        }
        if "training" in self.datamodule.notes:
            result["training texts"] = self.datamodule.notes["training"]
        start = self.datamodule.embeddings()
        if start is not None:
            result["words with pretrained vectors"] = f"{int(start[1].sum()):,} of {len(start[1]):,}"
        result["new text"] = f"{self.command} predict {shlex.quote(f'{self.folder}/last.ckpt')} 'some text'"
        return result


DEFAULTS = {
    "threads": 1,  # more are no gain for a layer of this size, and a loss beside other programs
    "data.validation": 0.2,
    "trainer.gradient_clip_val": 1.0,
    "trainer.max_epochs": 10,
    "trainer.log_every_n_steps": 1,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe with these command-line arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments[:1] == ["predict"]:
        predict("ts_lightning.recipes.lstm_nlp", arguments[1:])
    else:
        recipe(
            "lstm_nlp",
            TextCLI,
            TextClassifier,
            TextDataModule,
            DEFAULTS,
            [ConfusionMatrix(), WorstTexts()],
            argv,
            commands={"predict": "classify lines of text with a checkpoint"},
        )


if __name__ == "__main__":
    main()
