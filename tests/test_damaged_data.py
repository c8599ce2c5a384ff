"""Data files and sweeps of others that are damaged: one sentence names the file, the row and what is wrong with it."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_tasks import ROWS, write
from unmask.evals.sweep import SweepError, read_points
from unmask.evals.sweep_file import read_sweep
from unmask.evals.tasks import TaskError, find_task, take

DEEP = "[" * 100_000
READ = [
    *(("gsm8k", field) for field in ("question", "answer")),
    *(("math", field) for field in ("problem", "solution", "answer")),
    *(("humaneval", field) for field in ("prompt", "canonical_solution", "test", "entry_point")),
    *(("mbpp", field) for field in ("text", "code", "test_list", "test_setup_code")),
]


def assert_refused(name: str, file: Path, *said: str) -> None:
    with pytest.raises(TaskError) as refusal:
        take(find_task(f"{name}={file}"), 1, seed=0)
    message = str(refusal.value)
    assert all(text in message for text in (str(file), *said)), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "damage",
    [lambda whole: b"no gzip", lambda whole: whole[:-20], lambda whole: whole[:12] + b"\xff" * 8 + whole[20:]],
    ids=["another kind", "cut off", "overwritten"],
)
def test_a_damaged_gzip_file(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(damage(gzip.compress(json.dumps(ROWS["gsm8k"]).encode())))
    assert_refused("gsm8k", file, "cannot be read", "fetch it again")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1 and no more")
    assert_refused("gsm8k", file, "cannot be read", "fetch it again")


@pytest.mark.parametrize("line", [DEEP, '{"question": ' + DEEP], ids=["list", "field"])
def test_json_that_is_nested_deeply(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(line)
    assert_refused("gsm8k", file, "line 1 is no JSON")


def test_a_file_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "test.jsonl")
    with pytest.raises(TaskError, match=r"test.jsonl' is no regular file"):
        take(find_task(f"gsm8k={tmp_path}"), 1, seed=0)


@pytest.mark.parametrize("value", [5, None, [5], {"a": 1}], ids=str)
@pytest.mark.parametrize(("name", "field"), READ)
def test_a_field_of_another_type(tmp_path: Path, name: str, field: str, value: object) -> None:
    file = write(tmp_path / "rows.jsonl", [ROWS[name], ROWS[name] | {field: value}])
    assert_refused(name, file, f"row 2 is no row of {name}", f"field {field!r} is ", "expected")


@pytest.mark.parametrize("answer", ["18", "#### many", "", None], ids=str)
def test_an_answer_without_a_number_to_grade_by(tmp_path: Path, answer: str | None) -> None:
    file = write(tmp_path / "rows.jsonl", [{"question": "How many?", "answer": answer}])
    assert_refused("gsm8k", file, "row 1", f"field 'answer' is {answer!r}; ")


@pytest.mark.parametrize("text", [b'seed = "\xff"', b"seed = " + DEEP.encode()], ids=["no UTF-8", "deep"])
def test_a_damaged_sweep(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "sweep.toml"
    file.write_bytes(text)
    with pytest.raises(SweepError, match=r"sweep\.toml cannot be read as TOML in UTF-8: "):
        read_sweep(str(file))


@pytest.mark.parametrize("line", [b"\xff", DEEP.encode()], ids=["no UTF-8", "deep"])
def test_damaged_points(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "points.json"
    file.write_bytes(line)
    with pytest.raises(SweepError, match=r"line 1 of .* is no point of a sweep"):
        read_points(file)
