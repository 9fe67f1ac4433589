"""Texts from a file of one's own, CSV or Parquet, with a column of texts and a column of labels."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from ts_lightning.amount import amount
from ts_lightning.errors import DataError, first_line
from ts_lightning.optional import imported

_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf)", re.IGNORECASE)


def csv_texts(file: Path, text_column: str, label_column: str) -> tuple[list[str], list[str]]:
    """The texts and labels of a CSV file: UTF-8, separated by commas, names of columns in the first line.

    Args:
        file: the file.
        text_column: name of the column of texts.
        label_column: name of the column of labels.

    Raises:
        DataError: no such file, not UTF-8, not CSV, empty, or a column or a field is missing.
    """
    content = _decoded(file)
    limit = csv.field_size_limit(len(content) + 1)  # its default, 131,072 characters, refuses long texts
    try:
        reader = csv.reader(io.StringIO(content, newline=""), strict=True)
        header = next(filter(None, reader), [])  # behind blank lines
        text_place, label_place = _places(header, [text_column, label_column], file)
        texts, labels = [], []
        for row in reader:
            if not row:
                continue  # a blank line holds no field at all
            if len(row) != len(header):
                raise DataError(
                    f"'{file}', line {reader.line_num}: found {amount(len(row), 'field')}, expected {len(header)} as "
                    f"in the first line. A text with a comma or a line break in it stands in double quotes."
                )
            if row[label_place].strip() == "":
                raise DataError(f"'{file}', line {reader.line_num}: found no label; expected an integer or a string.")
            texts.append(row[text_place])
            labels.append(row[label_place].strip())
    except csv.Error as error:
        raise DataError(f"'{file}', line {reader.line_num}: not readable as CSV ({error}).") from error
    finally:
        csv.field_size_limit(limit)
    return texts, labels


def typed(labels: list[str], source: str) -> list[Any]:
    """Labels of a CSV file: integers if every one of them reads as an integer, else strings.

    Raises:
        DataError: all of them read as numbers, but some have fractions.
    """
    if all(_INTEGER.fullmatch(label) for label in labels):
        return [int(label) for label in labels]
    if all(_NUMBER.fullmatch(label) for label in labels):
        fraction = next(label for label in labels if not _INTEGER.fullmatch(label))
        raise DataError(
            f"{source}: found numbers as labels, but {fraction} is no integer; expected integers or strings."
        )
    return list(labels)


def parquet_texts(file: Path, text_column: str, label_column: str) -> list[list[Any]]:
    """The texts and labels of a Parquet file.

    Args:
        file: the file.
        text_column: name of the column of texts.
        label_column: name of the column of labels.

    Raises:
        DataError: no such file, not Parquet, a column is missing, or a text is not UTF-8.
    """
    _existing(file)
    parquet, arrow = imported("pyarrow.parquet", "pyarrow"), imported("pyarrow", "pyarrow")
    try:
        with parquet.ParquetFile(file) as opened:
            columns = [text_column, label_column]
            _places(opened.schema_arrow.names, columns, file)
            table = opened.read(columns)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"'{file}': not a readable Parquet file ({first_line(error)}).") from error
    return [_listed(table[column], file, column) for column in columns]


def _listed(column: Any, file: Path, name: str) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(f"'{file}': found a text in '{name}' that is not UTF-8 ({error}); expected UTF-8.") from error
    return values


def _decoded(file: Path) -> str:
    _existing(file)
    raw = file.read_bytes()
    if not raw.strip():
        raise DataError(f"'{file}' is empty; expected a first line with the names of columns, and texts after it.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"'{file}', line {line}: found the byte 0x{raw[error.start]:02x}, which is not UTF-8. Expected UTF-8: save "
            f"the file in it, or convert it (iconv -f latin1 -t utf-8)."
        ) from error


def _existing(file: Path) -> None:
    if not file.is_file():
        raise DataError(f"'{file}': found {'a folder' if file.is_dir() else 'nothing'}; expected a file of texts.")


def _places(found: list[str], expected: list[str], file: Path) -> list[int]:
    missing = [name for name in expected if name not in found]
    if missing:
        raise DataError(
            f"'{file}': no column {', '.join(map(repr, missing))}; found {', '.join(map(repr, found)) or 'none'}. Say "
            f"which to read with --data.text_column and --data.label_column."
        )
    several = [name for name in expected if found.count(name) > 1]
    if several:
        raise DataError(f"'{file}': found {found.count(several[0])} columns {several[0]!r}; expected one: rename them.")
    return [found.index(name) for name in expected]
