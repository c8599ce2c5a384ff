"""What users call models and adapters: folders named like presets, paths that hold =, names too long, numbers that are
none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.live import live, wait_for
from tests.synthetic import edit_json, synthetic_llada
from tests.test_lora import adapter, load
from unmask.cli import main
from unmask.models.errors import CheckpointError
from unmask.models.hub import locate, locate_adapter
from unmask.models.lora import CONFIG_FILE, WEIGHTS_FILE


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return synthetic_llada(tmp_path / "base")


def test_a_preset_is_listed_beside_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "llada-8b").mkdir()
    monkeypatch.chdir(tmp_path)
    main(["models", "llada-8b"])
    assert "GSAI-ML/LLaDA-8B-Instruct" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"no config\.json, and comes before the preset of its name"):
        locate("llada-8b")


@pytest.mark.parametrize("where", ["a=b", "lr=1e-4/rank=8"])
def test_a_folder_of_an_adapter_may_hold_an_equals_sign(where: str, tmp_path: Path, base: Path) -> None:
    (folder := tmp_path / where).mkdir(parents=True)
    adapter(folder, base, ["q_proj"])
    assert locate_adapter(str(folder)) == (folder, folder.name)
    assert locate_adapter(f"{folder}=law") == (folder, "law")
    assert load(base, f"{folder}=law").merged == "law"


def test_an_adapter_may_end_with_an_equals_sign(tmp_path: Path, base: Path) -> None:
    folder = adapter(tmp_path / "law", base, ["q_proj"])
    assert locate_adapter(f"{folder}=") == (folder, "law")


def test_nothing_is_no_name_of_the_folder_where_one_is(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter(tmp_path / "law", base, ["q_proj"]))
    with pytest.raises(CheckpointError, match="adapter '' is no folder"):
        locate_adapter("=law")
    monkeypatch.chdir(base)
    with pytest.raises(CheckpointError, match="model '' is no folder"):
        locate("")


def test_a_name_that_is_too_long_is_cut_in_the_error() -> None:
    for find in (locate, locate_adapter):
        with pytest.raises(CheckpointError, match="File name too long") as caught:
            find("a" * 5000)
        assert len(str(caught.value)) < 250


def test_an_adapter_called_as_the_model_is_refused(tmp_path: Path, base: Path) -> None:
    first, second = (str(adapter(tmp_path / name, base, ["q_proj"])) for name in ("a", "b"))
    lora = (f"{first}=base", second)
    with live(base, lora=lora, served_model_name="other") as server:
        assert [one["id"] for one in server.http.get("/v1/models").json()["data"]] == ["other", "base", "b"]
    with live(base, ready=False, lora=lora) as server:
        wait_for(lambda: "both called 'base'; name the adapter" in server.http.get("/health").text, 60)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lora_alpha": float("nan")}, "must have numbers lora_alpha and r"),
        ({"lora_alpha": float("inf")}, "must have numbers lora_alpha and r"),
        ({"lora_alpha": True}, "must have numbers lora_alpha and r"),
        ({"lora_alpha": 10**400}, "must have numbers lora_alpha and r"),
        ({"use_rslora": "false"}, "has use_rslora = 'false'"),
        ({"alora_invocation_tokens": [3, 4]}, "has alora_invocation_tokens"),
    ],
    ids=str,
)
def test_a_config_that_asks_for_something_else_is_refused(
    config: dict[str, Any], said: str, tmp_path: Path, base: Path
) -> None:
    folder = adapter(tmp_path / "a", base, ["q_proj"])
    edit_json(folder / CONFIG_FILE, **config)
    with pytest.raises(CheckpointError, match=said):
        load(base, str(folder))


def test_factors_of_whole_numbers_are_refused(tmp_path: Path, base: Path) -> None:
    folder = adapter(tmp_path / "a", base, ["q_proj"])
    whole = {name: (10 * tensor).to(torch.int8) for name, tensor in load_file(folder / WEIGHTS_FILE).items()}
    save_file(whole, folder / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match=r"factors of torch\.int8"):
        load(base, str(folder))
