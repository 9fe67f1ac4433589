"""Classify new text with the checkpoint of a run: ``python -m ts_lightning.recipes.lstm_nlp predict CHECKPOINT``."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from ts_lightning.amount import amount
from ts_lightning.cli.arguments import Arguments
from ts_lightning.cli.files import loaded
from ts_lightning.cli.program import plain
from ts_lightning.errors import SettingError, first_line
from ts_lightning.recipes._text_classifier import TextClassifier
from ts_lightning.recipes.data.text import remarks


def predict(program: str, argv: Sequence[str]) -> None:
    """Print the label, its probability and the text, tab-separated, for every line of text.

    Args:
        program: the name that ``python -m`` takes.
        argv: the checkpoint, and texts; without any, the lines of standard input.

    Raises:
        SystemExit: with 2 after a user's mistake.
    """
    parser = Arguments(
        prog=f"python -m {program} predict",
        description="Classify lines of text: label, its probability and the text are printed for each.",
    )
    parser.add_argument("checkpoint", type=Path, help="last.ckpt of a run")
    parser.add_argument("text", nargs="*", default=[], help="lines of text; without any, standard input is read")
    arguments = parser.parse_args(argv)
    with plain(f"{program} predict"):
        model = _loaded(arguments.checkpoint)
        given = [os.fsencode(text) for text in arguments.text]
        lines = _texts(given, "text") or _texts(sys.stdin.buffer.read().splitlines(), "standard input, line")
        if not lines:
            raise SettingError("found no text; expected lines of it as arguments or on standard input.")
        said = remarks(model.encoder(lines), model.encoder)
        if said:
            warnings.warn(f"{amount(len(lines), 'line')}: {'; '.join(said)}.", stacklevel=1)
        for line, row in zip(lines, model.probabilities(lines), strict=True):
            print(f"{model.labels[int(row.argmax())]}\t{float(row.max()):.4f}\t{line}")


def _loaded(checkpoint: Path) -> TextClassifier:
    if not checkpoint.is_file():
        found = "a folder" if checkpoint.is_dir() else "nothing"
        raise SettingError(f"'{checkpoint}': found {found}; expected a checkpoint, last.ckpt of a run.")
    try:
        loaded(checkpoint, mmap=True)  # which says what is wrong with a file of another form
        return TextClassifier.load_from_checkpoint(checkpoint, map_location="cpu")
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise SettingError(
            f"'{checkpoint}': not a checkpoint of lstm_nlp ({first_line(error)}); expected last.ckpt of a run."
        ) from error


def _texts(given: Sequence[bytes], place: str) -> list[str]:
    result = []
    for number, text in enumerate(given, 1):
        try:
            result.append(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise SettingError(
                f"{place} {number}: found the byte 0x{text[error.start]:02x}, which is not UTF-8. "
                f"Expected UTF-8: convert the text (iconv -f latin1 -t utf-8)."
            ) from error
    return result
