"""Tasks whose problems come from a published dataset: from the Hugging Face Hub, or from files in its format.

gsm8k                        from the Hub
gsm8k=data/test.jsonl        one file: all of it is held out, nothing is there to train on
gsm8k=data/gsm8k             a folder: a clone of the Hub's repository, or one with train.jsonl and test.jsonl
"""

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from unmask.evals.tasks.base import Problem, Split, TaskError
from unmask.evals.tasks.rows import Row, read_rows
from unmask.models.errors import first_line


@dataclass(frozen=True)
class Files:
    """Where a split lies: a dataset repository of the Hub, and patterns of which the first that matches holds."""

    repository: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class Dataset:
    """A published dataset: where its splits lie and how a row becomes a problem.

    parse  raises KeyError for a field that a row lacks, TaskError for one that holds what it may not
    """

    name: str
    description: str
    max_tokens: int
    parse: Callable[[Row], Problem]
    splits: Mapping[Split, Files]

    def task(self, path: str = "") -> "DatasetTask":
        """The task on these data; without a path, on the Hub's."""
        load = functools.cache(functools.partial(_load, self, path))  # one reading for all cells of a report
        return DatasetTask(self.name, self.description, self.max_tokens, load)


@dataclass(frozen=True)
class DatasetTask:
    """The problems of a dataset, in an order that the seed shuffles."""

    name: str
    description: str
    max_tokens: int
    load: Callable[[Split], tuple[Problem, ...]]

    def problems(self, seed: int, split: Split) -> Iterator[Problem]:
        """Yield every held-out problem once; those to train on without end, shuffled anew in every round.

        Raises TaskError if the data cannot be had.
        """
        problems = self.load(split)
        rng = random.Random(f"{self.name}/{split}/{seed}")
        yield from rng.sample(problems, len(problems))
        while split == "train":
            yield from rng.sample(problems, len(problems))


def _load(dataset: Dataset, path: str, split: Split) -> tuple[Problem, ...]:
    problems = tuple(
        _problem(dataset, row, f"{file} row {number}")
        for file in _files(dataset, path, split)
        for number, row in enumerate(read_rows(file), 1)
    )
    if not problems:
        raise TaskError(f"task {dataset.name} has no {split} problems: its files are empty")
    return problems


def _problem(dataset: Dataset, row: Row, where: str) -> Problem:
    try:
        return dataset.parse(row)
    except KeyError as error:
        fields = ", ".join(row)
        raise TaskError(f"{where} has no field {error} and is no row of {dataset.name}; it has {fields}") from error
    except TaskError as error:
        raise TaskError(f"{where} is no row of {dataset.name}: {error}") from error


def _files(dataset: Dataset, path: str, split: Split) -> list[Path]:
    """The files of a split. Raises TaskError if there is none."""
    source = Path(path).expanduser()
    if path and source.is_file():
        if split != "held-out":
            raise TaskError(f"task {dataset.name}={path} is one file, all held out; to train, give a folder")
        return [source]
    if path and not source.is_dir():
        raise TaskError(f"task {dataset.name}={path} names neither a file nor a folder; leave out ={path} for the Hub")
    if split not in dataset.splits:
        raise TaskError(f"task {dataset.name} has no {split} problems; it is there to measure only")
    where = dataset.splits[split]
    folder = source if path else _download(dataset.name, where)
    for pattern in where.patterns:
        if found := sorted(folder.glob(pattern)):
            return found
    raise TaskError(f"task {dataset.name} finds no {' or '.join(where.patterns)} in {folder}; give the file itself")


def _download(name: str, where: Files) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where.repository, repo_type="dataset", allow_patterns=list(where.patterns)))
    except Exception as error:  # network, disk and proxy errors come in many types; each ends the load
        raise TaskError(
            f"task {name}: dataset {where.repository!r} cannot be fetched from the Hub, "
            f"give its files as {name}=PATH: {first_line(error)}"
        ) from error
