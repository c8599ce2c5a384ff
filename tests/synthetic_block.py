"""Tiny checkpoints of the families that attend in blocks, and the stock networks that they must equal.

Beside the traps of `synthetic`: heads that are wider than a share of the width, a block size and a mask that the config
does not name, shards with names of their own, and of LLaDA2 a dense first layer, one tensor for queries, keys and
values, heads that are rotated in part, and a float32 bias that changes which experts are chosen.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter

from tests.synthetic import (
    DREAM_TEMPLATE,
    VOCABULARY,
    dream_oracle,
    randomise,
    stored,
    write_fast_tokenizer,
    write_json,
    write_qwen_tokenizer,
    write_tensors,
)

QWEN_CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 288,
    "max_position_embeddings": 256,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "bos_token_id": len(VOCABULARY),
    "eos_token_id": len(VOCABULARY),
}
QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN_IDS = {text: len(VOCABULARY) + i for i, text in enumerate(QWEN_SPECIAL)}
QWEN_MASK_ID = len(VOCABULARY) + len(QWEN_SPECIAL)

SDAR_CONFIG = {
    **QWEN_CONFIG,
    "architectures": ["SDARForCausalLM"],
    "model_type": "sdar",
    "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "head_dim": 16,
    "attention_bias": False,
    "block_size": 8,
    "mask_token_id": QWEN_MASK_ID,
    "fuse_cross_entropy": True,
}
SDAR_MOE_CONFIG = {
    **QWEN_CONFIG,
    "architectures": ["SDARMoeForCausalLM"],
    "model_type": "sdar_moe",
    "auto_map": {"AutoModelForCausalLM": "modeling_sdar_moe.SDARMoeForCausalLM"},
    "head_dim": 16,
    "attention_bias": False,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
FAST_DLLM_CONFIG = {
    **QWEN_CONFIG,
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "model_type": "Fast_dLLM_Qwen",
    "auto_map": {"AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM"},
    "bd_size": 8,
    "conplemenrary_mask": True,
}

LLADA2_SPECIAL = (
    *("<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|mask|>"),
    *("<role>", "</role>", "<|role_end|>"),
)
LLADA2_IDS = {text: len(VOCABULARY) + i for i, text in enumerate(LLADA2_SPECIAL)}
LLADA2_TEMPLATE = (
    "{% for message in messages %}<role>{{ 'HUMAN' if message.role == 'user' else message.role | upper }}</role>"
    "{{ message.content }}<|role_end|>{% endfor %}{% if add_generation_prompt %}<role>ASSISTANT</role>{% endif %}"
)
LLADA2_CONFIG: dict[str, Any] = {
    "architectures": ["LLaDA2MoeModelLM"],
    "model_type": "llada2_moe",
    "auto_map": {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 80,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 24,
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "num_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "score_function": "sigmoid",
    "router_dtype": "fp32",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "moe_router_enable_expert_bias": True,
    "partial_rotary_factor": 0.5,
    "rope_theta": 600000,
    "rope_scaling": None,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-06,
    "use_qk_norm": True,
    "use_bias": False,
    "use_qkv_bias": False,
    "norm_head": False,
    "tie_word_embeddings": False,
    "sliding_window": 4096,
    "use_sliding_window": False,
    "vocab_size": 288,
    "pad_token_id": LLADA2_IDS["<|endoftext|>"],
}


def synthetic_sdar(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write an SDAR checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**SDAR_CONFIG, **changes}
    write_json(folder / "config.json", config)
    write_tensors(folder, stored(sdar_oracle(config, seed), tied=config["tie_word_embeddings"]), files)
    write_qwen_tokenizer(folder, {**QWEN_IDS, "<|MASK|>": QWEN_MASK_ID}, DREAM_TEMPLATE, mask_token="<|MASK|>")
    write_json(
        folder / "added_tokens.json", {**QWEN_IDS, "<MASK>": QWEN_MASK_ID}
    )  # as published: it counts for nothing
    return folder


def synthetic_sdar_moe(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write an SDAR-MoE checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**SDAR_MOE_CONFIG, **changes}
    write_json(folder / "config.json", config)
    state = stored(sdar_moe_oracle(config, seed), tied=config["tie_word_embeddings"])
    write_tensors(folder, apart(state), files, shard="layer-{}-ep-0-of-1.safetensors")
    write_qwen_tokenizer(folder, {**QWEN_IDS, "<|MASK|>": QWEN_MASK_ID}, DREAM_TEMPLATE)
    return folder


def synthetic_fast_dllm(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a Fast-dLLM v2 checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**FAST_DLLM_CONFIG, **changes}
    write_json(folder / "config.json", config)
    write_tensors(folder, stored(fast_dllm_oracle(config, seed), tied=config["tie_word_embeddings"]), files)
    write_qwen_tokenizer(folder, {**QWEN_IDS, "|<MASK>|": QWEN_MASK_ID}, "")
    (folder / "chat_template.jinja").write_text(DREAM_TEMPLATE)
    return folder


def synthetic_llada2(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write an LLaDA2 checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**LLADA2_CONFIG, **changes}
    write_json(folder / "config.json", config)
    state = apart(stored(llada2_oracle(config, seed), tied=config["tie_word_embeddings"]))
    write_tensors(folder, _llada2_tensors(state, config["num_hidden_layers"]), files)
    write_fast_tokenizer(folder, LLADA2_SPECIAL, "<|startoftext|>", LLADA2_TEMPLATE)
    return folder


def sdar_oracle(config: Mapping[str, Any], seed: int = 0) -> Qwen3ForCausalLM:
    """The stock network that an SDAR checkpoint must equal."""
    return randomise(Qwen3ForCausalLM(Qwen3Config(**_common(config), attention_bias=False)), seed)


def sdar_moe_oracle(config: Mapping[str, Any], seed: int = 0) -> Qwen3MoeForCausalLM:
    """The stock network that an SDAR-MoE checkpoint must equal."""
    taken = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step")
    network = Qwen3MoeForCausalLM(Qwen3MoeConfig(**_common(config), **{key: config[key] for key in taken}))
    network.set_experts_implementation("eager")  # a loop over the experts
    return randomise(network, seed)


def fast_dllm_oracle(config: Mapping[str, Any], seed: int = 0) -> Qwen2ForCausalLM:
    """The stock network that a Fast-dLLM v2 checkpoint must equal, but for the shift."""
    return dream_oracle(config, seed)


def llada2_oracle(config: Mapping[str, Any], seed: int = 0) -> Glm4MoeForCausalLM:
    """The stock network that an LLaDA2 checkpoint must equal."""
    by_block = config.get("expert_capacity") is not None
    if by_block:
        config = {**config, "n_group": 1, "topk_group": 1}  # all experts are one group
    taken = ("first_k_dense_replace", "moe_intermediate_size", "num_experts_per_tok", "n_group", "topk_group")
    common = _common(config)
    common["rope_parameters"]["partial_rotary_factor"] = config["partial_rotary_factor"]
    stock = Glm4MoeConfig(
        **common,
        **{key: config[key] for key in (*taken, "norm_topk_prob", "routed_scaling_factor", "use_qk_norm")},
        n_routed_experts=config["num_experts"],
        n_shared_experts=config["num_shared_experts"],
    )
    network = Glm4MoeForCausalLM(stock)
    network.set_experts_implementation("eager")  # a loop over the experts
    if by_block:
        for layer in network.model.layers[config["first_k_dense_replace"] :]:
            layer.mlp.gate = _RouterByBlock(stock, config["block_size"], config["expert_capacity"])
    return randomise(network, seed)


class _RouterByBlock(Glm4MoeTopkRouter):
    """The stock router, asked about one block at a time, with the experts that the block does not keep put out of reach
    by a bias."""

    def __init__(self, stock: Glm4MoeConfig, block_size: int, kept: int):
        super().__init__(stock)
        self.block_size, self.kept = block_size, kept

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        parts = [part for row in hidden_states for part in map(self._block, row.split(self.block_size))]
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    def _block(self, hidden: Tensor) -> tuple[Tensor, ...]:
        learned = self.e_score_correction_bias.clone()
        best = ((hidden @ self.weight.T).sigmoid() + learned).amax(0)
        closed = best.argsort(descending=True)[self.kept :]
        self.e_score_correction_bias[closed] = -1000.0
        routed: tuple[Tensor, ...] = super().forward(hidden)  # type: ignore[no-untyped-call]
        self.e_score_correction_bias.copy_(learned)
        return routed


def _common(config: Mapping[str, Any]) -> dict[str, Any]:
    taken = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    return {
        **{key: config[key] for key in (*taken, "intermediate_size", "rms_norm_eps", "tie_word_embeddings")},
        "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
    }


def apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each expert's tensors by themselves, as they are published; transformers stacks them."""
    return {name: part.clone() for whole, tensor in state.items() for name, part in _experts(whole, tensor)}


def _experts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    stem, _, leaf = name.rpartition(".")
    if leaf not in ("gate_up_proj", "down_proj"):
        yield name, tensor
        return
    for expert, one in enumerate(tensor):
        parts = one.chunk(2) if leaf == "gate_up_proj" else (one,)
        for part, of in zip(("gate_proj", "up_proj") if leaf == "gate_up_proj" else ("down_proj",), parts, strict=True):
            yield f"{stem}.{expert}.{part}.weight", of


def _llada2_tensors(state: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """LLaDA2's tensors from those of Glm4MoeForCausalLM."""
    for layer in range(layers):
        of = f"model.layers.{layer}.self_attn"
        state[f"{of}.query_key_value.weight"] = torch.cat([state.pop(f"{of}.{x}_proj.weight") for x in "qkv"])
    renamed = {
        "embed_tokens": "word_embeddings",
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "self_attn.": "attention.",
        "e_score_correction_bias": "expert_bias",
    }
    return {reduce(lambda name, pair: name.replace(*pair), renamed.items(), name): t for name, t in state.items()}
