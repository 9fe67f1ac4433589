"""Where texts come from: Python's own documentation, the IMDB reviews, or a file of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from ts_lightning.errors import DataError, first_line
from ts_lightning.optional import imported
from ts_lightning.recipes.data.text_files import csv_texts, parquet_texts, typed
from ts_lightning.recipes.data.text_set import TextSet, split_by_hash, text_set
from ts_lightning.recipes.data.topics import topics

Source = Literal["topics", "imdb", "csv", "parquet"]
#: of what only some sources have: the columns of files, and how many topics
TEXTS, LABELS, LARGEST = "text", "label", 8
_HUB = "stanfordnlp/imdb"
#: seconds for the hub to answer
_PATIENCE = 10
_SPLITS = ("train", "test")
_OPINIONS = {0: "negative", 1: "positive"}


def imdb(root: Path | None) -> TextSet:
    """The Large Movie Review Dataset (Maas et al., 2011) in its official split of 25,000 reviews each.

    Args:
        root: a folder with its Parquet files, ``train*.parquet`` and ``test*.parquet`` (also ``imdb_train...``);
            ``None`` takes it from the Hugging Face hub.

    Raises:
        DataError: it is not there or cannot be read or fetched, or ``datasets`` is not installed.
    """
    datasets = imported("datasets", "datasets")
    files = {} if root is None else {split: _parquet_files(root, split) for split in _SPLITS}
    try:
        loaded = _from_the_hub(datasets) if root is None else datasets.load_dataset("parquet", data_files=files)
    except Exception as error:  # whatever datasets, a socket or a file system raises: the cause is in the text
        cause = error.__cause__ or error
        reason = first_line(cause)
        advice = "Check the network, or say with --data.root where its Parquet files are." if root is None else ""
        raise DataError(f"imdb: could not be {'read' if root else 'fetched'} ({reason}). {advice}".strip()) from error
    columns: list[list[Any]] = []
    for split in _SPLITS:
        missing = [name for name in ("text", "label") if name not in loaded[split].column_names]
        if missing:
            raise DataError(
                f"imdb: no column {', '.join(missing)} in the {split} files; found "
                f"{', '.join(loaded[split].column_names)}. Use --data.source parquet for other columns."
            )
        columns += [list(loaded[split]["text"]), [_OPINIONS.get(label, label) for label in loaded[split]["label"]]]
    return text_set(columns[0], columns[1], columns[2], columns[3], "imdb")


def _from_the_hub(datasets: Any) -> Any:
    """The data set, or what was kept of an earlier download where the hub cannot be reached.

    The hub is asked once. ``datasets`` would ask it six times, in 20 seconds and with a message each.
    """
    try:
        imported("huggingface_hub", "huggingface_hub").HfApi().dataset_info(_HUB, timeout=_PATIENCE)
    except Exception as error:
        settings, name = datasets.config, "HF_HUB_OFFLINE"
        before = getattr(settings, name)
        setattr(settings, name, True)
        try:
            return datasets.load_dataset(_HUB)
        except Exception:
            raise error from None
        finally:
            setattr(settings, name, before)
    return datasets.load_dataset(_HUB)


def from_files(
    kind: Literal["csv", "parquet"], file: Path, test_file: Path | None, text_column: str, label_column: str
) -> TextSet:
    """Texts from the user's own files.

    Args:
        kind: the form of the files.
        file: training texts; a fifth of them is for testing if there is no ``test_file``.
        test_file: test texts.
        text_column: name of the column of texts, in both files.
        label_column: name of the column of labels, in both files.

    Raises:
        DataError: a file or what it holds is missing or unusable.
    """
    files = [file] if test_file is None else [file, test_file]
    source = " and ".join(f"'{path}'" for path in files)
    read = csv_texts if kind == "csv" else parquet_texts
    texts, labels = zip(*(read(path, text_column, label_column) for path in files), strict=True)
    if kind == "csv":
        together = typed([label for part in labels for label in part], source)
        labels = together[: len(labels[0])], together[len(labels[0]) :]
    if test_file is None:
        return split_by_hash(texts[0], labels[0], source)
    return text_set(texts[0], labels[0], texts[1], labels[1], source)


def load(
    source: Source,
    root: Path | None,
    file: Path | None,
    test_file: Path | None,
    text_column: str,
    label_column: str,
    largest: int,
) -> TextSet:
    """The texts of a source by its name, as :class:`ts_lightning.data.TextDataModule` takes it."""
    if root is not None and source != "imdb":
        raise DataError(f"--data.root '{root}' goes with --data.source imdb; found --data.source {source}.")
    own = source in ("csv", "parquet")
    if own and file is None:
        raise DataError(f"{source}: found no file; expected --data.file PATH, the file with the texts.")
    columns = {"text_column": (text_column, TEXTS), "label_column": (label_column, LABELS)}
    for option, (value, usual) in {"file": (file, None), "test_file": (test_file, None), **columns}.items():
        if value != usual and not own:
            raise DataError(f"--data.{option} '{value}' goes with --data.source csv or parquet; found {source}.")
    if largest != LARGEST and source != "topics":
        raise DataError(f"--data.largest {largest} goes with --data.source topics; found --data.source {source}.")
    if file is not None and (source == "csv" or source == "parquet"):
        return from_files(source, file, test_file, text_column, label_column)
    return imdb(root) if source == "imdb" else topics(largest)


def _parquet_files(root: Path, split: str) -> list[str]:
    files = sorted(str(path) for path in root.rglob("*.parquet") if re.match(rf"(imdb.)?{split}", path.name))
    if not files:
        found = "found none" if root.is_dir() else "there is no such folder"
        raise DataError(f"imdb: expected {split}*.parquet or imdb_{split}*.parquet in '{root}', {found}.")
    return files
