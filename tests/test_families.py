"""The families that attend in blocks: each equals a stock network of transformers under a block-causal mask."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.synthetic import SINGLE_FILE, dream_oracle, edit_json, edit_tensors, oracle_logits
from tests.synthetic_block import (
    FAST_DLLM_CONFIG,
    LLADA2_CONFIG,
    LLADA2_IDS,
    QWEN_IDS,
    QWEN_MASK_ID,
    SDAR_CONFIG,
    SDAR_MOE_CONFIG,
    fast_dllm_oracle,
    llada2_oracle,
    sdar_moe_oracle,
    sdar_oracle,
    synthetic_fast_dllm,
    synthetic_llada2,
    synthetic_sdar,
    synthetic_sdar_moe,
)
from tests.synthetic_relatives import (
    A2D_CONFIG,
    A2D_QWEN2_CONFIG,
    FAMILIES,
    LLADA_MOE_CONFIG,
    RND1_CONFIG,
    llada_moe_oracle,
    synthetic_llada_moe,
    synthetic_stable_diffcoder,
)
from tests.test_checkpoints import assert_refused
from unmask.models import memory
from unmask.models.experts import MixtureOfExperts
from unmask.models.families import fast_dllm, llada2, sdar, sdar_moe
from unmask.models.loading import Model, build_network, load_model

EXACT = 1e-5  # float32, absolute and relative: the same sums in another order
TOKENS = torch.randint(3, 260, (2, 45), generator=torch.Generator().manual_seed(0))


def load(folder: Path, dtype: str = "float32") -> Model:
    return load_model(str(folder), device="cpu", dtype=dtype)


def logits(model: Model) -> Tensor:
    with torch.no_grad():
        return model.network.logits(TOKENS)


# The networks


@pytest.mark.parametrize(
    ("changes", "block_size"),
    [
        ({}, 8),
        ({"block_size": None}, 4),
        ({"block_size": 32, "head_dim": 8, "num_key_value_heads": 4}, 32),
        ({"tie_word_embeddings": True}, 8),
    ],
    ids=str,
)
def test_sdar_equals_a_stock_qwen3(tmp_path: Path, changes: dict[str, Any], block_size: int) -> None:
    found = logits(load(synthetic_sdar(tmp_path, **changes)))
    expected = oracle_logits(sdar_oracle({**SDAR_CONFIG, **changes}), TOKENS, block_size)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize(
    ("changes", "block_size"), [({}, 4), ({"block_size": 32, "num_experts_per_tok": 8}, 32)], ids=str
)
def test_sdar_moe_equals_a_stock_qwen3_moe(tmp_path: Path, changes: dict[str, Any], block_size: int) -> None:
    found = logits(load(synthetic_sdar_moe(tmp_path, **changes)))
    expected = oracle_logits(sdar_moe_oracle({**SDAR_MOE_CONFIG, **changes}), TOKENS, block_size)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("changes", [{}, {"bd_size": 32}, {"tie_word_embeddings": True}], ids=str)
def test_fast_dllm_equals_a_stock_qwen2_shifted_by_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = {**FAST_DLLM_CONFIG, **changes}
    found = logits(load(synthetic_fast_dllm(tmp_path, **changes)))
    raw = oracle_logits(fast_dllm_oracle(config), TOKENS, config["bd_size"])
    torch.testing.assert_close(found[:, 1:], raw[:, :-1], atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4, "partial_rotary_factor": 1.0},
        {"n_group": 1, "topk_group": 1, "num_shared_experts": 1},
        {"first_k_dense_replace": 2, "num_experts_per_tok": 6, "head_dim": 8},
    ],
    ids=str,
)
def test_llada2_equals_a_stock_glm4_moe(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = logits(load(synthetic_llada2(tmp_path, **changes)))
    expected = oracle_logits(llada2_oracle({**LLADA2_CONFIG, **changes}), TOKENS, block_size=32)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize(
    "changes",
    [
        {"expert_capacity": 5, "block_size": 8},
        {"expert_capacity": 3, "block_size": 32, "n_group": None, "topk_group": None},
        {"expert_capacity": 12, "block_size": 16, "n_group": 5},
    ],
    ids=str,
)
def test_experts_chosen_for_a_block_equal_a_stock_router_asked_block_by_block(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    found = logits(load(synthetic_llada2(tmp_path, **changes)))
    config = {**LLADA2_CONFIG, **changes}
    expected = oracle_logits(llada2_oracle(config), TOKENS, config["block_size"])
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1, "rms_norm_eps": 0.1}], ids=str)
def test_llada_moe_equals_a_stock_olmoe(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = logits(load(FAMILIES["llada_moe"](tmp_path, **changes)))
    expected = oracle_logits(llada_moe_oracle({**LLADA_MOE_CONFIG, **changes}), TOKENS)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize("changes", [{}, {"num_experts_per_tok": 8, "architectures": ["RND1LM"]}], ids=str)
def test_rnd1_equals_a_stock_qwen3_moe_shifted_by_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = load(FAMILIES["rnd1"](tmp_path, **changes))
    raw = oracle_logits(sdar_moe_oracle({**RND1_CONFIG, **changes}), TOKENS)
    torch.testing.assert_close(logits(model)[:, 1:], raw[:, :-1], atol=EXACT, rtol=EXACT)
    assert (model.mask_id, model.vocab_size) == (QWEN_MASK_ID, QWEN_MASK_ID)  # the first id that has no text


def test_a_later_revision_of_stable_diffcoder_loads_too(tmp_path: Path) -> None:
    before = logits(load(synthetic_stable_diffcoder(tmp_path)))
    edit_json(tmp_path / "config.json", ("auto_map",), architectures=["StableDiffcoderForCausalLM"])
    assert torch.equal(logits(load(tmp_path)), before)
    edit_json(tmp_path / "config.json", architectures=["LlamaForCausalLM"])
    assert_refused(tmp_path, "architecture 'LlamaForCausalLM' (model_type 'llama'), which is not supported")


def test_masks_that_nothing_declares(tmp_path: Path) -> None:
    for name in ("stable_diffcoder", "illada"):
        model = load(FAMILIES[name](tmp_path / name))
        assert (model.mask_id, model.stop_ids) == (5, frozenset({LLADA2_IDS["<|endoftext|>"]}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"moe_layer_freq": [0, 1]}, "moe_layer_freq = [0, 1]"),
        ({"moe_router_score_function": "sigmoid"}, "moe_router_score_function"),
        ({"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias"),
        ({"shared_expert_intermediate_size": 24}, "shared_expert_intermediate_size"),
        ({"clip_qkv": 8.0}, "clip_qkv"),
        ({"routed_scaling_factor": 2.5}, "routed_scaling_factor"),
    ],
)
def test_what_llada_moe_cannot_do_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert_refused(synthetic_llada_moe(tmp_path, **changes), said)


BD3LM = {
    "a2d_qwen3": ("Qwen3-0.6B-diffusion-bd3lm-v0.1", sdar_oracle, A2D_CONFIG),
    "a2d_qwen2": ("Qwen2.5-Coder-0.5B-Instruct-diffusion-bd3lm-v0.1", dream_oracle, A2D_QWEN2_CONFIG),
}


@pytest.mark.parametrize("prompt", [0, 13, 32, 40])
@pytest.mark.parametrize("family", BD3LM)
def test_bd3lm_equals_a_stock_network_whose_prompt_is_padded_to_whole_blocks(
    family: str, prompt: int, tmp_path: Path
) -> None:
    name, oracle, config = BD3LM[family]
    model = load(FAMILIES[family](tmp_path / name))
    with torch.no_grad():
        found = model.network.logits(TOKENS, prompt=prompt)
    expected = oracle_logits(oracle(config), TOKENS, 32, padding=-prompt % 32)
    torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


@pytest.mark.parametrize(
    ("where", "changes", "block_size"),
    [
        ("Qwen3-0.6B-diffusion-bd3lm-v0.1", {}, 32),
        ("models--dllm-hub--Qwen3-0.6B-diffusion-bd3lm-v0.1/snapshots/0a1b", {}, 32),
        ("tests-of-bd3lm-and-others/Qwen3-0.6B-diffusion-mdlm-v0.1", {}, None),
        ("ours", {}, None),
        ("ours", {"block_size": 16}, 16),
        ("Qwen3-0.6B-diffusion-BD3LM-v0.2", {"block_size": 64}, 64),
    ],
)
def test_the_name_of_a_tiny_a2d_says_how_it_attends(
    where: str, changes: dict[str, Any], block_size: int | None, tmp_path: Path
) -> None:
    a = load(FAMILIES["a2d_qwen3"](tmp_path / where, **changes)).network.architecture
    assert (a.block_size, a.from_prompt_end) == (block_size, block_size is not None)


def test_what_is_known_and_not_built_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    name = "nemotron_labs_diffusion_vlm"
    synthetic_sdar(tmp_path, architectures=["NemotronLabsDiffusionVLMModel"], model_type=name)
    assert_refused(tmp_path, "model_type 'nemotron_labs_diffusion_vlm'", "reads images")
    edit_json(tmp_path / "config.json", drop=("auto_map",), model_type=["nemotron_labs_diffusion_vlm"])
    assert_refused(tmp_path, "architecture 'NemotronLabsDiffusionVLMModel'")


def test_the_expert_bias_changes_which_experts_are_chosen(tmp_path: Path) -> None:
    before = logits(load(synthetic_llada2(tmp_path)))
    edit_tensors(tmp_path, lambda t: t["model.layers.1.mlp.gate.expert_bias"].zero_())
    assert (logits(load(tmp_path)) - before).abs().max() > 0.1


def test_the_expert_bias_stays_float32(tmp_path: Path) -> None:
    stored = load_file(synthetic_llada2(tmp_path) / SINGLE_FILE)["model.layers.1.mlp.gate.expert_bias"]
    model = load(tmp_path, dtype="bfloat16")
    ffn = model.network.blocks[1].ffn
    assert isinstance(ffn, MixtureOfExperts)
    assert torch.equal(ffn.router.bias, stored)
    assert ffn.down.dtype == logits(model).dtype == torch.bfloat16


def test_experts_run_under_torch_compile_in_float32_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic_llada2(tmp_path)
    plain = logits(load(folder))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = load_model(str(folder), device="cpu", dtype="float32", compiled=True)
    torch.testing.assert_close(logits(compiled), plain, atol=EXACT, rtol=EXACT)
    torch._dynamo.reset()


@pytest.mark.gpu
def test_experts_need_no_word_from_the_device(tmp_path: Path) -> None:
    model = load_model(str(synthetic_llada2(tmp_path, moe_intermediate_size=32)), device="cuda", dtype="bfloat16")
    tokens = TOKENS.cuda()
    model.network.logits(tokens)  # the first pass sets up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = model.network.logits(tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.isfinite().all()


# Loading


def test_special_tokens_are_found_by_their_text(tmp_path: Path) -> None:
    qwen_stops = frozenset({QWEN_IDS["<|endoftext|>"], QWEN_IDS["<|im_end|>"]})
    for make in (synthetic_sdar, synthetic_sdar_moe, synthetic_fast_dllm):
        model = load(make(tmp_path / make.__name__))
        assert (model.mask_id, model.stop_ids) == (QWEN_MASK_ID, qwen_stops)
    model = load(synthetic_llada2(tmp_path / "llada2"))
    assert model.mask_id == LLADA2_IDS["<|mask|>"]
    assert model.stop_ids == {LLADA2_IDS["<|endoftext|>"], LLADA2_IDS["<|role_end|>"]}


def test_a_chat_template_in_a_file_of_its_own(tmp_path: Path) -> None:
    tokenizer = load(synthetic_fast_dllm(tmp_path)).tokenizer
    ids = tokenizer.chat([{"role": "user", "content": "the"}])
    assert "".join(map(tokenizer.token_text, ids)).endswith("<|im_start|>assistant\n")


GATE = "model.layers.1.mlp.experts.5.gate_proj.weight"
BEYOND = "model.layers.1.mlp.experts.12.gate_proj.weight"
FUSED = "model.layers.1.attention.query_key_value.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(GATE), ["lacks", GATE]),
        (lambda t: t.update({BEYOND: t[GATE].clone()}), [BEYOND, "does not"]),
        (lambda t: t.update({GATE: t[GATE].T.contiguous()}), [GATE, "[32, 24]", "must be [24, 32]"]),
        (lambda t: t.update({FUSED: t[FUSED][:-1].clone()}), [FUSED, "[127, 32]", "must be [128, 32]"]),
        (lambda t: t.pop("model.layers.2.mlp.gate.expert_bias"), ["lacks", "expert_bias"]),
    ],
    ids=["missing expert", "extra expert", "misshapen expert", "misshapen fused", "missing bias"],
)
def test_tensors_that_do_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], said: list[str]
) -> None:
    edit_tensors(synthetic_llada2(tmp_path), change)
    assert_refused(tmp_path, *said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_experts_per_tok": 7}, ["num_experts_per_tok = 7", "at most 6"]),
        ({"topk_group": 5}, ["topk_group = 5", "at most 4"]),
        ({"n_group": 5}, ["num_experts = 12", "n_group = 5"]),
        ({"expert_capacity": 5}, ["lacks the key 'block_size'"]),
        ({"expert_capacity": 2, "block_size": 8}, ["num_experts_per_tok = 3", "at most 2", "expert_capacity"]),
        ({"expert_capacity": 13, "block_size": 8}, ["expert_capacity = 13", "at most 12"]),
        ({"expert_capacity": 0, "block_size": 8}, ["expert_capacity = 0", "positive integer"]),
        ({"expert_capacity": True, "block_size": 8}, ["expert_capacity = true", "positive integer"]),
        ({"n_group": 12}, ["num_experts = n_group"]),
        ({"partial_rotary_factor": 0.3}, ["partial_rotary_factor = 0.3", "16 dimensions"]),
        ({"partial_rotary_factor": 0.1875}, ["partial_rotary_factor = 0.1875", "even"]),
        ({"partial_rotary_factor": 2}, ["partial_rotary_factor = 2", "16 dimensions"]),
        ({"score_function": "softmax"}, ['score_function = "softmax"', '"sigmoid"']),
        ({"mask_token_id": 3, "eos_token_id": 3}, ["both the mask and an end of text"]),
    ],
    ids=str,
)
def test_llada2_configs(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    edit_json(synthetic_llada2(tmp_path) / "config.json", **changes)
    assert_refused(tmp_path, *said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_experts_per_tok": 9}, ["num_experts_per_tok = 9", "at most 8"]),
        ({"norm_topk_prob": False}, ["norm_topk_prob = false"]),
        ({"mlp_only_layers": [0]}, ["mlp_only_layers = [0]"]),
        ({"head_dim": None}, ["head_dim = null"]),
    ],
    ids=str,
)
def test_sdar_moe_configs(tmp_path: Path, changes: dict[str, Any], said: list[str]) -> None:
    edit_json(synthetic_sdar_moe(tmp_path) / "config.json", **changes)
    assert_refused(tmp_path, *said)


def test_fast_dllm_without_a_block_size(tmp_path: Path) -> None:
    edit_json(synthetic_fast_dllm(tmp_path) / "config.json", drop=("bd_size",))
    assert_refused(tmp_path, "lacks the key 'bd_size'")


# Published sizes of the bfloat16 weights (metadata.total_size of each index), LLaDA2's of 2.1, whose bias is float32.
SDAR_4B = {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
SDAR_30B = {"hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4}
FAST_DLLM_7B = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
LLADA2_MINI = {"hidden_size": 2048, "num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 4}
EXPERTS_30B = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "vocab_size": 151936}
GROUPS_MINI = {"n_group": 8, "topk_group": 4, "num_shared_experts": 1}
EXPERTS_MINI = {"num_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 512, "vocab_size": 157184}


@pytest.mark.parametrize(
    ("family", "config", "published"),
    [
        (sdar, {**SDAR_CONFIG, **SDAR_4B, "intermediate_size": 9728, "vocab_size": 151936}, 8_822_848_512),
        (sdar_moe, {**SDAR_MOE_CONFIG, **SDAR_30B, **EXPERTS_30B}, 61_064_245_248),
        (
            fast_dllm,
            {**FAST_DLLM_CONFIG, **FAST_DLLM_7B, "intermediate_size": 18944, "vocab_size": 152064},
            15_231_233_024,
        ),
        (
            llada2,
            {**LLADA2_CONFIG, **LLADA2_MINI, **GROUPS_MINI, **EXPERTS_MINI, "intermediate_size": 5120},
            32_511_296_512,
        ),
    ],
    ids=["sdar", "sdar_moe", "fast_dllm", "llada2"],
)
def test_the_arithmetic_of_published_checkpoints(family: Any, config: dict[str, Any], published: int) -> None:
    config = {**config, "head_dim": 128}
    assert memory.weight_bytes(build_network(family, config), torch.bfloat16) == published
