"""Presets: what they hold, what a command makes of them, and whether what they need fits."""

import os
import re
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.live import live
from tests.models_page import PAGE, presets, render
from tests.published_configs import PUBLISHED_CONFIGS
from tests.synthetic import synthetic_llada
from unmask import LLM, listing
from unmask.asking import as_requests
from unmask.commands import generate
from unmask.engine import fit as fit_module
from unmask.engine import room
from unmask.engine.caching import choose_cache
from unmask.engine.fit import PRECISIONS, fit_of, fit_of_loaded, fits
from unmask.engine.input_state import parse_input_state
from unmask.engine.request import check_block_length, fit_block_length
from unmask.errors import UserError
from unmask.evals.settings import EvalSettings
from unmask.listing import models, network_for, parameters
from unmask.models import memory
from unmask.models import presets as presets_module
from unmask.models.config import read_json
from unmask.models.errors import CheckpointError
from unmask.models.families import find_family
from unmask.models.hub import find_folder
from unmask.models.loading import build_network, load_model
from unmask.models.memory import CPU, GIB
from unmask.models.presets import find_preset, preset_names, with_preset
from unmask.schedulers import parse_scheduler_text
from unmask.server.settings import ServeSettings
from unmask.settings import GenerateSettings, ModelsSettings

NAMES = preset_names()
# Bytes that published indexes state (metadata.total_size); of LLaDA2.1, whose expert biases are float32.
PUBLISHED_BYTES = {
    "llada-8b": 16_031_162_368,
    "dream-7b": 15_231_233_024,
    "llada2.1-mini": 32_511_296_512,
    "sdar-4b": 8_822_848_512,
    "sdar-8b": 16_381_470_720,
    "sdar-30b-a3b": 61_064_245_248,
    "fast-dllm-v2-7b": 15_231_233_024,
}
# Billions of parameters that the Hub states beside the weights.
PUBLISHED_SIZES = {
    "nemotron-labs-3b-base": 3.83,
    "nemotron-labs-8b-base": 8.49,
    "nemotron-labs-14b-base": 13.51,
}
TINY = """
checkpoint = "owner/tiny"
about = "A network of no use"
scheduler = "threshold:threshold=0.4"
block_length = 8
cache = "dual"
input_state = "iter-smooth"
max_tokens = 24
stop_ids = [7]
notes = ["It knows nothing."]
"""


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The preset `tiny`, for a checkpoint that lies in the Hub's cache. Returns the folder of presets."""
    model = tmp_path / "hub" / "models--owner--tiny"
    synthetic_llada(model / "snapshots" / ("a" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(presets_module, "FOLDER", folder)
    return folder


# What they hold


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_what_there_is(name: str) -> None:
    preset = find_preset(name)
    assert preset is not None
    a = network_for(preset).architecture
    if preset.scheduler is not None:
        parse_scheduler_text(preset.scheduler)
    choose_cache(preset.cache or "auto", a)
    parse_input_state(preset.input_state or "mask")
    check_block_length(fit_block_length(preset.block_length or 32, preset.max_tokens or 64, a), a)
    assert (preset.max_tokens or 1) < a.max_positions
    assert all(0 <= token < a.vocab_rows for token in preset.stop_ids)
    assert all(one.source for one in preset.published)


@pytest.mark.parametrize("name", PUBLISHED_BYTES)
def test_the_shape_has_the_bytes_of_the_published_weights(name: str) -> None:
    (preset,) = (preset for preset in presets() if preset.name == name)
    network = network_for(preset)
    buffers = sum(buffer.nbytes for buffer in network.buffers())
    assert 2 * parameters(network) + buffers == PUBLISHED_BYTES[name]


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_the_shape_has_the_published_number_of_parameters(name: str) -> None:
    (preset,) = (preset for preset in presets() if preset.name == name)
    assert round(parameters(network_for(preset)) / 1e9, 2) == PUBLISHED_SIZES[name]


def test_revisions_are_commits_and_licences_have_names() -> None:
    for preset in presets():
        assert preset.revision is None or re.fullmatch("[0-9a-f]{40}", preset.revision), preset.name
        assert preset.licence != "", preset.name


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_the_shape_is_that_of_the_published_config(name: str) -> None:
    (preset,) = (preset for preset in presets() if preset.name == name)
    config = PUBLISHED_CONFIGS[name]
    assert find_family(config).architecture(config) == network_for(preset).architecture


def test_the_page_is_up_to_date() -> None:
    """If not: `python -m tests.models_page` writes it anew."""
    assert render(PAGE.read_text()) == PAGE.read_text()


# What a command makes of them


def test_a_preset_sets_what_no_flag_does(tiny: Path) -> None:
    settings, lines = with_preset(ServeSettings(model="tiny"))
    assert (settings.default_scheduler, settings.default_block_length) == ("threshold:threshold=0.4", 8)
    assert (settings.cache, settings.served_model_name) == ("dual", "tiny")
    assert lines == [
        "preset tiny: owner/tiny, scheduler threshold:threshold=0.4, block length 8, cache dual, "
        "input state iter-smooth, max tokens 24",
        "preset tiny: It knows nothing.",
    ]


def test_flags_and_variables_win(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CACHE", "none")
    settings, lines = with_preset(ServeSettings(model="tiny", default_scheduler="topk", served_model_name="mine"))
    assert (settings.default_scheduler, settings.cache, settings.default_block_length) == ("topk", "none", 8)
    assert settings.served_model_name == "mine"
    assert lines[0].endswith("; given instead: --cache, --default-scheduler, --served-model-name")


def test_evaluation_measures_the_preset(tiny: Path) -> None:
    settings, _ = with_preset(EvalSettings(model="tiny"))
    assert (settings.scheduler, settings.block_length) == (("threshold:threshold=0.4",), (8,))
    assert settings.cache == ("dual",)
    assert with_preset(EvalSettings(model="tiny", block_length=(4,)))[0].block_length == (4,)


def test_the_embedded_model_has_the_defaults_of_any() -> None:
    settings, lines = with_preset(ServeSettings())
    assert lines == []
    assert settings == ServeSettings(served_model_name="llada-nano")


def test_without_a_preset_settings_stay(tmp_path: Path) -> None:
    for model in ("owner/tiny", str(tmp_path)):
        settings = ServeSettings(model=model)
        assert with_preset(settings) == (settings, [])


def test_a_folder_comes_before_a_preset(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic_llada(tmp_path / "tiny", n_layers=1)
    assert load_model("tiny", device="cpu", dtype="float32").preset is not None
    monkeypatch.chdir(tmp_path)
    model = load_model("tiny", device="cpu", dtype="float32")
    assert (model.preset, len(model.network.blocks)) == (None, 1)


def test_the_model_knows_its_preset(tiny: Path) -> None:
    model = load_model("tiny", device="cpu", dtype="float32")
    plain = load_model("owner/tiny", device="cpu", dtype="float32")
    assert (model.name, model.usual_length, model.input_state) == ("owner/tiny", 24, "iter-smooth")
    assert model.stop_ids == plain.stop_ids | {7}
    assert (plain.preset, plain.input_state) == (None, "mask")


def test_a_stop_id_that_the_network_lacks_is_an_error(tiny: Path) -> None:
    (tiny / "wrong.toml").write_text('checkpoint = "owner/tiny"\nabout = "wrong"\nstop_ids = [288]\n')
    with pytest.raises(CheckpointError, match="a stop id of preset wrong is 288"):
        load_model("wrong", device="cpu", dtype="float32")


def test_python_takes_the_preset(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        llm = LLM("tiny", device="cpu", dtype="float32")
    assert "preset tiny: owner/tiny, scheduler threshold:threshold=0.4" in caplog.text
    (output,) = llm.generate("the", seed=0, progress=False)
    assert output.diffusion.scheduler == {"name": "threshold", "threshold": 0.4}
    assert (output.diffusion.block_length, len(output.reveals)) == (8, 24)
    assert as_requests([(5, 6)], {}, llm.model)[0].cache.name == "dual"
    (output,) = llm.generate("the", threshold=0.9, block_length=4, cache="none", max_tokens=8, progress=False)
    assert output.diffusion.scheduler == {"name": "threshold", "threshold": 0.9}
    assert output.diffusion.block_length == 4
    (output,) = llm.generate("the", scheduler="topk", max_tokens=8, progress=False)
    assert output.diffusion.scheduler["name"] == "topk"


def test_generating_says_what_was_chosen(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generate(GenerateSettings(prompt="the", model="tiny", device="cpu", dtype="float32", raw=True))
    said = capsys.readouterr().err
    assert said.startswith("preset tiny: owner/tiny, scheduler threshold:threshold=0.4")
    assert said.splitlines()[-1].endswith("input state iter-smooth")


def test_a_server_of_a_preset(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"), live("tiny") as server:
        (card,) = server.http.get("/v1/models").json()["data"]
        answer = server.generate(prompt="the", model="tiny")
        other = server.generate(prompt="the", scheduler="topk", max_tokens=4)
    assert "preset tiny: It knows nothing." in caplog.text
    assert (card["id"], card["root"]) == ("tiny", "owner/tiny")
    assert card["preset"]["defaults"]["block_length"] == 8
    fit = card["fit"]
    assert (fit["device"], fit["dtype"], fit["quantization"]) == ("cpu", "float32", None)
    assert 0 < fit["weight_bytes"] < fit["needed_bytes"] < fit["available_bytes"]
    assert answer["diffusion"]["scheduler"] == {"name": "threshold", "threshold": 0.4}
    assert (answer["diffusion"]["block_length"], answer["diffusion"]["length"]) == (8, 24)
    assert other["diffusion"]["scheduler"]["name"] == "topk"


def test_a_mistyped_name_is_corrected() -> None:
    with pytest.raises(CheckpointError, match=r"'llada-8' is no folder, no preset and no Hub id .*'llada-8b'"):
        find_folder("llada-8")


# What fits

# By hand: bytes of the weights and of one block; a pass takes far less than the gaps. 23 GiB are 24.7 GB.
ON_23_GIB = {
    ("llada-8b", "float32"): False,  # 32 GB
    ("llada-8b", "bfloat16"): True,  # 16
    ("llada-8b", "bfloat16 with int8 weights"): True,
    ("dream-7b", "bfloat16"): True,
    ("sdar-4b", "float32"): True,  # 17.6
    ("sdar-8b", "float32"): False,
    ("llada2.0-mini", "bfloat16"): False,  # 32.5
    ("llada2.0-mini", "bfloat16 with int8 weights"): True,  # 16.9 and a block
    ("sdar-30b-a3b", "bfloat16 with int8 weights"): False,  # 31
    ("sdar-8b", "bfloat16 with int4 weights"): True,
    ("fast-dllm-v2-1.5b", "float32"): True,
}


def test_what_fits_23_gib() -> None:
    found = {
        (preset.name, fit.precision): fit.fits
        for preset in presets()
        for fit in fits(network_for(preset), CPU, 23 * GIB, 16, 0.8)
        if fit is not None
    }
    assert {case: found[case] for case in ON_23_GIB} == ON_23_GIB


@pytest.mark.parametrize(("dtype", "quantization"), PRECISIONS)
def test_fit_is_what_loading_decides_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, quantization: str | None
) -> None:
    """One byte less than the fit says, and loading refuses."""
    folder = synthetic_llada(tmp_path, mlp_hidden_size=96)
    config = read_json(folder / "config.json")
    network = build_network(find_family(config), config)
    needed = fit_of(network, dtype, quantization, CPU, GIB, 16, 0.8).needed
    assert fit_of(network, dtype, quantization, CPU, needed, 16, 0.8).fits
    assert not fit_of(network, dtype, quantization, CPU, needed - 1, 16, 0.8).fits
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed)
    load_model(str(folder), device="cpu", dtype=dtype, quantization=quantization)
    monkeypatch.setattr(memory, "available_bytes", lambda device: needed - 1)
    with pytest.raises(CheckpointError, match="the weights and a first pass need"):
        load_model(str(folder), device="cpu", dtype=dtype, quantization=quantization)


@pytest.mark.parametrize("fraction", [0.2, 0.8])
def test_cached_tokens_are_what_an_engine_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fraction: float
) -> None:
    model = load_model(str(synthetic_llada(tmp_path)), device="cpu", dtype="float32")
    monkeypatch.setattr(room, "available_bytes", lambda device: 3_000_000)
    monkeypatch.setattr(fit_module, "available_bytes", lambda device: 3_000_000)
    found = fit_of_loaded(model, 64, fraction)
    assert found.columns == room.Room(model, 64, fraction).columns < 64 * 256


def test_the_list_needs_no_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(listing, "available_bytes", lambda device: 23 * GIB)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    models(ModelsSettings(device="cpu"))
    said = capsys.readouterr().out
    assert "cpu has 23.0 GiB free" in said
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert rows["llada-8b"][1:-1] == ["8.02", "30.94", "✗", "15.50", "✓", "9.01", "✓", "6.56", "✓"]
    assert set(NAMES) <= rows.keys()


def test_one_preset_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    models(ModelsSettings(preset="llada-8b", device="cpu"))
    said = " ".join(capsys.readouterr().out.split())
    assert "checkpoint GSAI-ML/LLaDA-8B-Instruct, licence MIT" in said
    assert "72.55 % at 1.0 tokens per pass (d3LLM's runs" in said
    assert "dream-7b" not in said


def test_an_unknown_preset_is_named() -> None:

    with pytest.raises(UserError, match="unknown preset 'lada-8b'; did you mean 'llada-8b'"):
        models(ModelsSettings(preset="lada-8b", device="cpu"))
