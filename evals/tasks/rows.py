"""Rows of a data file: JSON lines with the standard library, Parquet with pyarrow (the extra `data`)."""

import gzip
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.tasks.base import TaskError

Row = Mapping[str, Any]
ENDINGS = (".jsonl", ".jsonl.gz", ".parquet")


def read_rows(file: Path) -> list[Row]:
    """Every row of a file, as a mapping from field to value. Raises TaskError if it is of no kind that is read."""
    if file.name.endswith(".parquet"):
        return _parquet(file)
    if not file.name.endswith(ENDINGS):
        raise TaskError(f"data file {str(file)!r} is of no kind that can be read; give {', '.join(ENDINGS)}")
    text = gzip.decompress(file.read_bytes()) if file.name.endswith(".gz") else file.read_bytes()
    return [_object(line, f"{file} line {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _object(line: bytes, where: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
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
    return parquet.read_table(file).to_pylist()
