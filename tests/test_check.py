"""`unmask check`: what it prints, and what it finds wrong; and weights whose bytes are checked by the Hub's hashes."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.synthetic import SINGLE_FILE, edit_tensors, synthetic_llada
from unmask import check as checking
from unmask.check import PROMPT, Run, check, faults
from unmask.engine.errors import NotFiniteError
from unmask.engine.request import Result, Reveal
from unmask.models import presets
from unmask.models.errors import CheckpointError
from unmask.models.loading import load_model
from unmask.settings import CheckSettings

ANSWER = "5 + 7 = 12\n12 - 3 = 9\n#### 9"


# The command


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_embedded_model_gives_the_answer_of_its_preset(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(CheckSettings(device="cpu", dtype=dtype)) == 0
    said = capsys.readouterr().out
    assert f"model       llada-nano, preset llada-nano, in {dtype}\n" in said
    assert f"answer      {ANSWER!r}\n" in said
    assert re.search(r"loaded      in \d+\.\d\d s; weights 0\.\d\d GiB, peak \d", said)
    assert re.search(r"memory      needed 0\.01 of \d+\.\d\d GiB; room for 512 cached tokens", said)
    assert re.search(r"time        \d\.\d{4} s for the first pass, \d\.\d{4} s for each", said)
    assert said.endswith("the model works here\n")


def test_the_other_embedded_model_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(CheckSettings(model="llada-micro", device="cpu", dtype="float32")) == 0
    assert "wrong" not in capsys.readouterr().out


def test_another_answer_than_the_stated_one_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = (presets.FOLDER / "llada-nano.toml").read_text().replace("#### 9", "#### 10")
    (tmp_path / "llada-nano.toml").write_text(stated)
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    assert check(CheckSettings(device="cpu", dtype="float32")) == 1
    *_, wrong, verdict = capsys.readouterr().out.splitlines()
    assert wrong == "wrong       the preset states another answer: '5 + 7 = 12\\n12 - 3 = 9\\n#### 10'"
    assert verdict == "the model does not work here as it should"


def test_a_model_without_a_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(CheckSettings(model=str(synthetic_llada(tmp_path / "tiny")), device="cpu", dtype="float32")) == 0
    assert "model       tiny, no preset, in float32\n" in capsys.readouterr().out


def test_a_model_that_computes_nan_fails_in_one_sentence(tmp_path: Path) -> None:
    folder = synthetic_llada(tmp_path)
    edit_tensors(folder, lambda t: t["model.transformer.blocks.1.attn_norm.weight"].fill_(float("nan")))
    with pytest.raises(NotFiniteError):
        check(CheckSettings(model=str(folder), device="cpu", dtype="float32"))


def run(text: str = "a", ids: tuple[int, ...] = (5,), confidence: float = 0.5) -> Run:
    reveals = (Reveal(0, 5, confidence, 0),)
    return Run(Result(ids, (0,), reveals, text, "stop", 1, 1, 1, 0.0, 0.0), [0.1])


@pytest.mark.parametrize(
    ("runs", "stated", "said"),
    [
        ([run(), run()], None, []),
        ([run(), run()], "a", []),
        ([run(), run()], "b", ["the preset states another answer: 'b'"]),
        ([run(), run("b", (6,))], "a", ["the same request has two answers, the second is 'b'"]),
        ([run(), run(confidence=float("nan"))], "a", ["a confidence is nan, which is no probability"]),
        ([run(confidence=1.5), run()], "a", ["a confidence is 1.5, which is no probability"]),
    ],
)
def test_what_counts_as_wrong(runs: list[Run], stated: str | None, said: list[str]) -> None:
    assert list(faults(runs, stated)) == said


def test_the_prompt_is_asked_with_the_defaults_of_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "llada-nano.toml").write_text(
        'checkpoint = "llada-nano"\nabout = "x"\nscheduler = "threshold:threshold=0.7"\nblock_length = 16\n'
        "max_tokens = 48\n"
    )
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    assert check(CheckSettings(device="cpu", dtype="float32")) == 0
    said = capsys.readouterr().out
    assert "asked       with threshold:threshold=0.7, cache none\n" in said
    assert "length      48 tokens at most, blocks of 16\n" in said
    model = load_model("llada-nano", device="cpu", dtype="float32")
    assert checking._request(model).prompt == tuple(model.tokenizer.ask(PROMPT))


# The bytes of weights


@contextmanager
def hub(stated: dict[str, str]) -> Iterator[str]:
    """A server on loopback that states hashes as the Hub does. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            names = parse_qs(asked)["paths"]
            found = [
                {"type": "file", "path": name, "size": 1, "oid": "0" * 40}
                | ({"lfs": {"oid": stated[name], "size": 1, "pointerSize": 1}} if name in stated else {})
                for name in names
            ]
            body = json.dumps(found).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in the Hub's cache, whose weights are a file of their own. Returns its folder."""
    model = tmp_path / "models--owner--tiny"
    folder = synthetic_llada(model / "snapshots" / ("a" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return folder


def as_blob(file: Path) -> Path:
    """Keep a file of the cache as the Hub's client does: a link to a blob that is named by its hash."""
    blob = file.parents[2] / "blobs" / sha256(file)
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(blob)
    return blob


def load(model: str = "owner/tiny", verify: bool = True) -> None:
    load_model(model, device="cpu", dtype="float32", verify=verify)


def test_a_blob_has_the_bytes_that_its_name_states(snapshot: Path) -> None:
    """Without a network, as the cache knows what the Hub stated when it was downloaded."""
    blob = as_blob(snapshot / SINGLE_FILE)
    load()
    damage(blob)
    load(verify=False)
    with pytest.raises(CheckpointError, match=r"other bytes than the Hub states.*; delete .* and load the model again"):
        load()


def damage(file: Path) -> None:
    """Change one byte of the last tensor: the network still loads."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def test_the_hub_is_asked_for_what_the_cache_does_not_know(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    with hub({SINGLE_FILE: sha256(snapshot / SINGLE_FILE)}) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        load()
        damage(snapshot / SINGLE_FILE)
        with pytest.raises(CheckpointError, match=r"model\.safetensors of 'owner/tiny' has other bytes than"):
            load()
    with hub({}) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        with pytest.raises(CheckpointError, match=r"the Hub states no SHA-256 of model\.safetensors of 'owner/tiny'"):
            load()


def test_without_the_hub_hashes_cannot_be_asked_for(snapshot: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the Hub cannot be asked for the hashes of .*leave --verify out"):
        load()


def test_a_folder_states_no_hash(snapshot: Path) -> None:
    with pytest.raises(CheckpointError, match="is a folder, of whose bytes nobody states a hash; leave --verify out"):
        load(str(snapshot))
