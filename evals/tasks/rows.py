"""Rows of a data file: JSON lines with the standard library, Parquet with pyarrow (the extra `data`)."""

import gzip
import importlib
import json
import reprlib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.evals.tasks.base import TaskError
from unmask.models.errors import first_line

Row = Mapping[str, Any]
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


def read_rows(file: Path) -> list[Row]:
    """Every row of a file, as a mapping from field to value. Raises TaskError if it is of no kind that is read."""
    if not file.is_file():
        raise TaskError(f"data file {str(file)!r} is no regular file; give one")
    if file.name.endswith(".parquet"):
        return _parquet(file)
    if not file.name.endswith(ENDINGS):
        raise TaskError(f"data file {str(file)!r} is of no kind that can be read; give {', '.join(ENDINGS)}")
    text = _text(file)
    return [_object(line, f"{file} line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def text_of(row: Row, field: str) -> str:
    """The text in a field. Raises KeyError for a row that lacks it, TaskError for one that holds something else."""
    return _typed(row[field], field)


def texts_of(row: Row, field: str) -> list[str]:
    """The texts in a field that holds a list of them. Raises as `text_of` does."""
    value = row[field]
    if not isinstance(value, list):
        raise TaskError(f"field {field!r} is {reprlib.repr(value)}; a list of texts is expected")
    return [_typed(item, field) for item in value]


def _typed(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise TaskError(f"field {field!r} is {reprlib.repr(value)}; a text is expected")
    return value


def _text(file: Path) -> bytes:
    try:
        return gzip.decompress(file.read_bytes()) if file.name.endswith(".gz") else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"data file {str(file)!r} cannot be read ({first_line(error)}); fetch it again") from error


def _object(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{where} is no JSON; give one object a line") from error
    if not isinstance(row, dict):
        raise TaskError(f"{where} is a {type(row).__name__}; give one object a line")
    return row


def _parquet(file: Path) -> list[Row]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise TaskError(
            f"data file {str(file)!r} needs pyarrow; install it with `pip install unmask[data]`, or give JSON lines"
        ) from error
    try:
        return parquet.read_table(file).to_pylist()
    except (OSError, ValueError) as error:  # all of pyarrow's are one of the two
        raise TaskError(f"data file {str(file)!r} cannot be read ({first_line(error)}); fetch it again") from error
