"""What a start says, does and leaves out: a newcomer waits with the log before them."""

import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from tests.synthetic import synthetic_llada
from unmask.commands import generate
from unmask.engine import Engine
from unmask.engine.service import EngineError, EngineService
from unmask.models import memory
from unmask.models.config import read_json
from unmask.models.errors import CheckpointError
from unmask.models.families import find_family
from unmask.models.loading import build_network, load_model
from unmask.server.backend import Backend
from unmask.server.settings import ServeSettings
from unmask.settings import GenerateSettings


def backend(**settings: Any) -> Backend:
    return Backend(ServeSettings(**settings), lambda model: None, lambda error: None)


def test_the_log_says_what_is_read_and_that_it_warms_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = load_model(str(synthetic_llada(tmp_path / "tiny")), device="cpu", dtype="float32")
        service = EngineService(Engine(model), max_waiting=10)
        service.start()
        backend()._warm_up(model, service)
        service.stop()
    said = [record.getMessage() for record in caplog.records]
    assert "reading tiny: 0.0 GB in float32, for cpu" in said
    assert "warming up" in said


def test_what_is_not_compiled_is_warmed_up_by_one_pass_of_one_row(tmp_path: Path) -> None:
    model = load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32")
    ((request,),) = backend(max_rows=16)._warm_up_lots(model)
    (result,) = Engine(model).results([request]).values()
    assert result.forward_passes == 1


def test_where_compiling_fails_the_error_names_the_way_out(tmp_path: Path) -> None:
    def fail(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    model = load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32")
    model.network.compile(backend=fail, dynamic=True)
    service = EngineService(Engine(model, max_rows=2), max_waiting=10)
    service.start()
    with pytest.raises(EngineError, match=r"no compiler[\s\S]*use --no-compile"):
        backend(max_rows=2)._warm_up(replace(model, compiled=True), service)
    service.stop()
    torch._dynamo.reset()


def test_what_is_not_compiled_does_not_import_the_compiler() -> None:
    """torch._dynamo and sympy take as long to import as torch does."""
    code = """
import sys, unmask
unmask.LLM("llada-nano", device="cpu").generate("hello", max_tokens=32)
print([name for name in ("torch", "torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['torch']\n"


@pytest.mark.parametrize(("flag", "compiled"), [(None, False), (True, True)])
def test_one_answer_is_not_worth_compiling(flag: bool | None, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(settings: GenerateSettings) -> None:
        assert settings.compile is compiled
        raise SystemExit("loaded")

    monkeypatch.setattr("unmask.commands.load_configured", load)
    with pytest.raises(SystemExit, match="loaded"):
        generate(GenerateSettings(prompt="hello", compile=flag))


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ([], "'owner/tiny' has no safetensors weights on the Hub"),
        (["model-00001-of-00002.safetensors"], "'owner/tiny' lacks model-00002-of-00002.safetensors on the Hub"),
    ],
)
def test_weights_that_the_hub_has_not(
    there: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = synthetic_llada(tmp_path / "whole", files=2)
    had = tmp_path / "had"
    shutil.copytree(folder, had, ignore=lambda _, names: [n for n in names if n.endswith("tensors") and n not in there])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(had))
    with pytest.raises(CheckpointError, match=said):
        load_model("owner/tiny", device="cpu")


def test_a_model_is_not_loaded_without_room_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic_llada(tmp_path)
    config = read_json(folder / "config.json")
    network = build_network(find_family(config), config)
    weights, needed = (f(network, torch.float32) for f in (memory.weight_bytes, memory.needed_bytes))
    monkeypatch.setattr(memory, "available_bytes", lambda device: weights)
    with pytest.raises(CheckpointError, match=r"the weights and a first pass need .* GiB in float32 and cpu has"):
        load_model(str(folder), device="cpu", dtype="float32")
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    load_model(str(folder), device="cpu", dtype="float32")
