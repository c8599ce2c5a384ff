"""A checkpoint that would keep a machine busy, or for ever, is refused at once, in one sentence that names why."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.live import POLL
from tests.synthetic import edit_json, synthetic_llada
from tests.synthetic_relatives import FAMILIES
from tests.test_checkpoints import assert_refused
from unmask.models.checkpoint import INDEX_FILE, SINGLE_FILE
from unmask.models.config import MAX_EXPERTS, MAX_LAYERS
from unmask.models.hub import SMALL_FILES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return synthetic_llada(tmp_path / "tiny")


@pytest.mark.parametrize("file", ["config.json", INDEX_FILE, "tokenizer.json", "tokenizer_config.json"])
def test_json_that_is_nested_deeply(folder: Path, file: str) -> None:
    (folder / file).write_text("[" * 100_000)
    assert_refused(folder, file.partition("_")[0].removesuffix(".json"))


@pytest.mark.parametrize(
    ("family", "key", "most"),
    [
        ("llada", "n_layers", MAX_LAYERS),
        ("dream", "num_hidden_layers", MAX_LAYERS),
        ("sdar_moe", "num_hidden_layers", MAX_LAYERS),
        ("llada2", "num_hidden_layers", MAX_LAYERS),
        ("sdar_moe", "num_experts", MAX_EXPERTS),
        ("llada2", "num_experts", MAX_EXPERTS),
    ],
)
def test_counts_that_no_network_has(tmp_path: Path, family: str, key: str, most: int) -> None:
    """Building ten million layers takes longer than anybody waits, before their memory is counted."""
    folder = FAMILIES[family](tmp_path)
    changes: dict[str, Any] = {key: 2 * most}
    edit_json(folder / "config.json", **changes)
    assert_refused(folder, f"config.json has {key} = {2 * most}", f"at most {most}")


def test_a_header_of_more_tensors_than_any_network_has(folder: Path) -> None:
    """The library takes half a minute over a million. The number of bytes decides, before it begins."""
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"model.{i}": empty for i in range(20_000)}).encode()
    (folder / SINGLE_FILE).write_bytes(len(header).to_bytes(8, "little") + header)
    assert_refused(folder, SINGLE_FILE, f"header of {len(header)} bytes", "download it again")


@contextmanager
def pipe(path: Path) -> Iterator[None]:
    """A named pipe, which whoever reads it finds empty, lest a test that fails hang."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def write_nothing() -> None:
        path.open("wb").close()

    writer = threading.Thread(target=write_nothing)
    writer.start()
    try:
        yield
    finally:
        while writer.is_alive():  # it still waits for a reader
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            writer.join(POLL)


@pytest.mark.parametrize("file", [*SMALL_FILES, SINGLE_FILE])
def test_a_file_that_is_a_pipe(folder: Path, file: str) -> None:
    with pipe(folder / file):
        assert_refused(folder, f"{folder / file} is not a regular file")


@pytest.mark.parametrize("file", ["config.json", SINGLE_FILE])
def test_a_file_that_is_a_folder(folder: Path, file: str) -> None:
    (folder / file).unlink()
    (folder / file).mkdir()
    assert_refused(folder, f"{folder / file} is not a regular file")


def test_a_shard_that_is_a_pipe(tmp_path: Path) -> None:
    folder = synthetic_llada(tmp_path, files=2)
    shard = max(folder.glob("*.safetensors"))
    with pipe(shard):
        assert_refused(folder, f"{shard} is not a regular file")


def test_what_a_folder_holds_besides_is_not_looked_at(folder: Path) -> None:
    os.mkfifo(folder / "other")
    edit_json(folder / "config.json", n_layers=0)
    assert_refused(folder, "n_layers = 0")
