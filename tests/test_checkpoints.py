"""What is wrong with a checkpoint, or with where it is said to be, is refused in one sentence that names it."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.synthetic import DREAM_CONFIG, LLADA_CONFIG, edit_json, edit_tensors, synthetic_dream, synthetic_llada
from tests.synthetic_relatives import FAMILIES
from unmask import weights
from unmask.models import checkpoint, devices, families, memory
from unmask.models.config import read_json
from unmask.models.errors import CheckpointError
from unmask.models.families import dream, llada
from unmask.models.hub import SMALL_FILES
from unmask.models.loading import build_network, load_model

HEAD = "model.transformer.ff_out.weight"
DOWN = "model.transformer.blocks.1.ff_out.weight"

# Published sizes of the bfloat16 weights (metadata.total_size of each index).
LLADA_8B = {
    **LLADA_CONFIG,
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
}
DREAM_7B = {
    **DREAM_CONFIG,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "vocab_size": 152064,
}


@pytest.fixture
def llada_folder(tmp_path: Path) -> Path:
    return synthetic_llada(tmp_path / "tiny")


def assert_refused(folder: Path | str, *said: str) -> None:
    """Loading fails in one sentence that holds all of `said`."""
    with pytest.raises(CheckpointError) as refusal:
        load_model(str(folder), device="cpu", dtype="float32")
    message = str(refusal.value)
    assert all(text in message for text in said), message
    assert "\n" not in message


# Tensors that are refused


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(DOWN), ["lacks", DOWN]),
        (lambda t: t.pop(HEAD), ["lacks", HEAD]),
        (lambda t: t.update({"model.extra.weight": torch.ones(2)}), ["model.extra.weight"]),
        (lambda t: t.update({DOWN: t[DOWN].T.contiguous()}), [DOWN, "[80, 32]", "[32, 80]"]),
        (lambda t: t.update({DOWN: t[HEAD], HEAD: t[DOWN]}), ["ff_out.weight", "[288, 32]", "[32, 80]"]),
        (lambda t: t.update({DOWN: t[DOWN].to(torch.int8)}), [DOWN, "I8", "BF16"]),
    ],
    ids=["missing", "missing head", "extra", "misshapen", "swapped ff_out", "quantised"],
)
def test_tensors_that_do_not_fit(
    llada_folder: Path, change: Callable[[dict[str, Tensor]], object], said: list[str]
) -> None:
    edit_tensors(llada_folder, change)
    assert_refused(llada_folder, *said)


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    folder = synthetic_llada(tmp_path, files=2)
    first, second = sorted(folder.glob("*.safetensors"))
    tensors = load_file(first)
    save_file({**load_file(second), HEAD: tensors.get(HEAD, torch.ones(1)), DOWN: torch.ones(1)}, second)
    save_file({**tensors, DOWN: torch.ones(1)}, first)
    assert_refused(folder, DOWN, first.name, second.name)


def test_a_truncated_shard(tmp_path: Path) -> None:
    folder = synthetic_llada(tmp_path, files=2)
    shard = max(folder.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert_refused(folder, shard.name, "damaged")


def test_a_file_that_lies_about_a_shape(llada_folder: Path) -> None:
    file = llada_folder / "model.safetensors"
    data = file.read_bytes()
    assert data.count(b"[288,32]") == 2
    file.write_bytes(data.replace(b"[288,32]", b"[289,32]"))
    assert_refused(llada_folder, file.name, "damaged")


@pytest.mark.parametrize(
    "file",
    ["../model.safetensors", "/etc/model.safetensors", "..\\model.safetensors", "..", "model.bin", 3, None],
    ids=str,
)
def test_an_index_that_names_a_file_elsewhere(tmp_path: Path, file: object) -> None:
    folder = synthetic_llada(tmp_path / "tiny", files=2)
    shutil.copy(next(folder.glob("*.safetensors")), tmp_path / "model.safetensors")
    index = folder / checkpoint.INDEX_FILE
    edit_json(index, weight_map={**json.loads(index.read_text())["weight_map"], DOWN: file})
    assert_refused(folder, DOWN, repr(file))


def test_an_index_that_names_a_missing_file(tmp_path: Path) -> None:
    folder = synthetic_llada(tmp_path, files=2)
    shard = max(folder.glob("*.safetensors"))
    shard.unlink()
    assert_refused(folder, shard.name, "has no")


@pytest.mark.parametrize("weight_map", [None, ["a.safetensors"], {}], ids=str)
def test_an_index_without_a_map(tmp_path: Path, weight_map: object) -> None:
    folder = synthetic_llada(tmp_path, files=2)
    edit_json(folder / checkpoint.INDEX_FILE, weight_map=weight_map)
    assert_refused(folder, "weight_map")


def test_other_weight_formats(llada_folder: Path) -> None:
    (llada_folder / "model.safetensors").rename(llada_folder / "pytorch_model.bin")
    assert_refused(llada_folder, "model.safetensors", "only safetensors")


# Configs that are refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            ["GPT2LMHeadModel", "DreamModel, DreamForCausalLM, Fast_dLLM_QwenForCausalLM, ILLaDAForCausalLM, LLaDA"],
        ),
        ({"architectures": ["LLaDAMoEModelLM"], "num_experts": 64}, ["lacks the key 'qk_layernorm'"]),
        ({"architectures": ["DreamForCausalLM"], "model_type": "Dream"}, ["lacks the key 'head_dim'"]),
        ({"architectures": None}, ["None", "not supported"]),
        ({"architectures": "LLaDAModelLM"}, ["None", "not supported"]),
        ({"model_type": "Dream"}, ['model_type = "Dream"', '"llada"']),
        ({"num_experts": 64}, ["num_experts = 64", "null"]),
        ({"block_type": "sequential"}, ['block_type = "sequential"', '"llama"']),
        ({"alibi": True}, ["alibi = true", "false or null"]),
        ({"d_model": "32"}, ['d_model = "32"', "positive integer"]),
        ({"n_layers": 0}, ["n_layers = 0", "positive integer"]),
        ({"n_layers": True}, ["n_layers = true", "positive integer"]),
        ({"rope_theta": -1}, ["rope_theta = -1", "positive number"]),
        ({"weight_tying": 1}, ["weight_tying = 1", "true or false"]),
        ({"n_heads": 5}, ["d_model = 32", "n_heads = 5"]),
        ({"n_kv_heads": 3}, ["4 heads", "3 key/value heads"]),
        ({"n_heads": 32}, ["width 1", "even"]),
        ({"embedding_size": 270}, ["271 tokens", "270 rows"]),
        ({"mask_token_id": 288}, ["mask_token_id is 288", "below 288"]),
        ({"mask_token_id": LLADA_CONFIG["eos_token_id"]}, ["both the mask and an end of text"]),
        ({"eos_token_id": "</s>"}, ["eos_token_id is '</s>'", "below 288"]),
        ({"d_model": 64}, ["[288, 64]", "[288, 32]"]),
        ({"embedding_size": 10**9, "d_model": 4096}, ["GiB in float32", "GiB free", "--dtype bfloat16"]),
    ],
    ids=str,
)
def test_llada_configs(llada_folder: Path, changes: dict[str, Any], said: list[str]) -> None:
    edit_json(llada_folder / "config.json", **changes)
    assert_refused(llada_folder, *said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_sliding_window": True}, ["use_sliding_window = true"]),
        ({"use_mrope": True}, ["use_mrope = true"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, ["rope_scaling", "yarn"]),
        ({"hidden_act": "gelu"}, ['hidden_act = "gelu"', '"silu"']),
        ({"mask_token_id": 5}, ["mask_token_id is 5", "in the tokenizer"]),
    ],
    ids=str,
)
def test_dream_configs(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    assert_refused(synthetic_dream(tmp_path, **changes), *said)


@pytest.mark.parametrize(
    "key",
    [
        "d_model",
        "n_layers",
        "n_heads",
        "vocab_size",
        "rope_theta",
        "rms_norm_eps",
        "weight_tying",
        "block_type",
        "rope",
    ],
)
def test_structural_keys_have_no_default(llada_folder: Path, key: str) -> None:
    edit_json(llada_folder / "config.json", drop=(key,))
    assert_refused(llada_folder, "lacks the key", key)


@pytest.mark.parametrize(
    ("text", "said"), [("{nope", "is not JSON"), ("[1]", "an object is expected"), ("\udcff", "is not JSON")]
)
def test_a_config_that_is_no_object(llada_folder: Path, text: str, said: str) -> None:
    (llada_folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert_refused(llada_folder, "config.json", said)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_missing_file(llada_folder: Path, file: str) -> None:
    (llada_folder / file).unlink()
    assert_refused(llada_folder, file)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_half_a_tokenizer(tmp_path: Path, file: str) -> None:
    folder = synthetic_dream(tmp_path)
    (folder / file).unlink()
    assert_refused(folder, "vocab.json with merges.txt")


def test_a_mask_that_nothing_names(llada_folder: Path) -> None:
    edit_json(llada_folder / "config.json", drop=("mask_token_id",))
    tokenizer = llada_folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|mdm_mask|>", "<|other|>"))
    assert_refused(llada_folder, "lacks mask_token_id", "'<|mdm_mask|>'")


def test_a_broken_tokenizer(llada_folder: Path) -> None:
    (llada_folder / "tokenizer.json").write_text("{nope")
    assert_refused(llada_folder, "the tokenizer in", "cannot be read")


# Memory


def test_the_arithmetic_of_published_checkpoints() -> None:
    for family, config, published in [(llada, LLADA_8B, 16_031_162_368), (dream, DREAM_7B, 15_231_233_024)]:
        assert memory.weight_bytes(build_network(family, config), torch.bfloat16) == published


def test_a_container_may_have_less_memory_than_its_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("anon 1000\nfile 900000\n")
    machine = devices.container_bytes(tmp_path / "no cgroup")
    assert devices.container_bytes(tmp_path) == machine
    (tmp_path / "memory.max").write_text("5000\n")
    assert devices.container_bytes(tmp_path) == 4000 < machine


# Families


def test_every_family_says_all_that_a_family_must() -> None:
    found = families.families()
    assert len(found) == len(FAMILIES)
    members = [*families.Family.__annotations__, "architecture", "tensor_names"]
    assert all(hasattr(family, member) for family in found for member in members)


@pytest.mark.parametrize("name", FAMILIES)
def test_tensor_names_cover_the_network(tmp_path: Path, name: str) -> None:
    config = read_json(FAMILIES[name](tmp_path, tie_word_embeddings=False) / "config.json")
    family = families.find_family(config)
    network = build_network(family, config)
    pairs = list(family.tensor_names(network.architecture))
    assert {ours for _, ours in pairs} == {name for name, _ in [*network.named_parameters(), *network.named_buffers()]}
    assert len(set(pairs)) == len(pairs)


def test_a_new_family_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(
        "from unmask.models.families.llada import *\nMODEL_TYPE = 'stranger'\nARCHITECTURES = ('StrangerModel',)\n"
    )
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    folder = synthetic_llada(tmp_path / "tiny", model_type="stranger", architectures=["StrangerModel"])
    try:
        assert load_model(str(folder), device="cpu").vocab_size > 0
    finally:
        sys.modules.pop("unmask.models.families.stranger", None)
        vars(families).pop("stranger", None)


# Sources


def test_a_shipped_checkpoint_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic_llada(tmp_path / "tiny-one")
    monkeypatch.setattr(weights, "HERE", tmp_path)
    assert load_model("tiny-one", device="cpu").name == "tiny-one"
    assert weights.find("../" + tmp_path.name + "/tiny-one") is None


@pytest.mark.parametrize(
    "source", ["no-such-model", "./no/folder", "/no/folder", "a/b/c", "https://host/owner/name", "a b/c"]
)
def test_a_source_that_is_nothing(source: str) -> None:
    assert_refused(source, repr(source), "no folder", "owner/name")


def test_a_folder_has_no_revision(llada_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="revision 'main' is for Hub ids"):
        load_model(str(llada_folder), revision="main")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache with one model of two revisions, as `snapshot_download` leaves it."""
    model = tmp_path / "models--owner--tiny"
    for seed, (reference, commit) in enumerate([("main", "a" * 40), ("v2", "b" * 40)]):
        synthetic_llada(model / "snapshots" / commit, seed=seed, files=2)
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / reference).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_a_hub_id_loads_from_the_cache(hub_cache: Path) -> None:
    main, other = load_model("owner/tiny", device="cpu"), load_model("owner/tiny", revision="v2", device="cpu")
    assert main.name == other.name == "owner/tiny"
    assert not torch.equal(main.network.embed.weight, other.network.embed.weight)


def test_only_listed_files_of_one_commit_are_downloaded(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str]]] = []
    download = huggingface_hub.snapshot_download

    def recorded(repository: str, *, revision: str, allow_patterns: list[str]) -> str:
        calls.append((revision, allow_patterns))
        return download(repository, revision=revision, allow_patterns=allow_patterns)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", recorded)
    load_model("owner/tiny", revision="v2", device="cpu")
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert calls == [("v2", list(SMALL_FILES)), ("b" * 40, shards)]
    assert not any(name.endswith((".py", ".bin")) for name in SMALL_FILES)


@pytest.mark.parametrize(("source", "revision"), [("owner/absent", None), ("owner/tiny", "v3")])
def test_a_hub_id_that_cannot_be_had(hub_cache: Path, source: str, revision: str | None) -> None:
    with pytest.raises(CheckpointError, match=f"'{source}' cannot be fetched from the Hub") as refusal:
        load_model(source, revision=revision, device="cpu")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.RevisionNotFoundError, "has no revision 'v9'"),
        (errors.GatedRepoError, "is gated; accept its terms"),
        (errors.RepositoryNotFoundError, "is no folder and not on the Hub"),
        (
            OSError,
            "cannot be fetched from the Hub: 500 broken; run it again to continue the download, or give a folder",
        ),
    ],
)
def test_what_the_hub_says_becomes_one_sentence(
    monkeypatch: pytest.MonkeyPatch, kind: type[OSError], said: str
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise kind.__new__(kind, "500 broken\nand advice")  # its __init__ wants an HTTP response, of a type that varies

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=re.escape(said)) as refusal:
        load_model("owner/tiny", revision="v9")
    assert "advice" not in str(refusal.value)
