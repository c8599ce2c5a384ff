"""Tiny checkpoints of the relatives of other families, and the stock networks that they must equal; and all families.

Beside the traps of the others: a tied head beside heads of their own width, a class that only `auto_map` names, a mask
that nothing declares, and experts whose weights do not sum to 1.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeForCausalLM

from tests.synthetic import (
    DREAM_TEMPLATE,
    dream_oracle,
    randomise,
    stored,
    synthetic_dream,
    synthetic_llada,
    write_fast_tokenizer,
    write_json,
    write_qwen_tokenizer,
    write_tensors,
)
from tests.synthetic_block import (
    LLADA2_IDS,
    LLADA2_SPECIAL,
    LLADA2_TEMPLATE,
    QWEN_CONFIG,
    QWEN_IDS,
    QWEN_MASK_ID,
    SDAR_MOE_CONFIG,
    apart,
    sdar_moe_oracle,
    sdar_oracle,
    synthetic_fast_dllm,
    synthetic_llada2,
    synthetic_sdar,
    synthetic_sdar_moe,
)
from tests.synthetic_nemotron import synthetic_nemotron

A2D_CONFIG = {
    **QWEN_CONFIG,
    "architectures": ["A2DQwen3LMHeadModel"],
    "model_type": "a2d-qwen3",
    "auto_map": {"AutoModelForMaskedLM": "modeling_qwen3.A2DQwen3LMHeadModel"},
    "head_dim": 16,
    "attention_bias": False,
    "tie_word_embeddings": True,
}
A2D_QWEN2_CONFIG = {
    **QWEN_CONFIG,
    "architectures": ["A2DQwen2LMHeadModel"],
    "model_type": "a2d-qwen2",
    "auto_map": {"AutoModelForMaskedLM": "modeling_qwen2.A2DQwen2LMHeadModel"},
    "tie_word_embeddings": True,
}
DREAM_REASONER_CONFIG = {
    **QWEN_CONFIG,
    "architectures": ["DreamForCausalLM"],
    "model_type": "Dream",
    "auto_map": {"AutoModelForCausalLM": "modeling_dream.DreamForCausalLM"},
    "head_dim": 16,
    "block_size": 8,
    "mask_token_id": QWEN_MASK_ID,
}
RND1_CONFIG = {
    **SDAR_MOE_CONFIG,
    "architectures": ["RND1"],
    "model_type": "rnd1",
    "auto_map": {"AutoModel": "modeling_rnd.RND1Model", "AutoModelForMaskedLM": "modeling_rnd.RND1LM"},
    "rope_scaling": False,
    "sliding_window": False,
    "is_causal": False,
    "moe_backend": "hf",
    "num_diffusion_steps": 256,
    "mask_token_id": QWEN_MASK_ID,
}
SEED_CONFIG: dict[str, Any] = {
    **QWEN_CONFIG,
    "attention_bias": False,
    "mlp_bias": False,
    "layer_norm_eps": None,
    "bos_token_id": LLADA2_IDS["<|startoftext|>"],
    "eos_token_id": LLADA2_IDS["<|endoftext|>"],
}
DIFFCODER_CONFIG = {
    **SEED_CONFIG,
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "auto_map": {"AutoModelForCausalLM": "modeling_seed_diffcoder.SeedDiffcoderForCausalLM"},
}
ILLADA_CONFIG = {
    **SEED_CONFIG,
    "architectures": ["ILLaDAForCausalLM"],
    "model_type": "illada",
    "auto_map": {"AutoModelForCausalLM": "modeling_illada.ILLaDAForCausalLM"},
    "tie_word_embeddings": True,
}

LLADA_MOE_CONFIG: dict[str, Any] = {
    "architectures": ["LLaDAMoEModelLM"],
    "model_type": "llada",
    "auto_map": {"AutoModelForCausalLM": "modeling_lladamoe.LLaDAMoEModelLM"},
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 288,
    "max_position_embeddings": 256,
    "rope_theta": 50000,
    "partial_rotary_factor": 1,
    "rms_norm_eps": 1e-05,
    "qk_layernorm": True,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "clip_qkv": None,
    "moe_layer_freq": [1, 1],
    "dense_intermediate_size": 80,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "expert_intermediate_size": 24,
    "shared_expert_intermediate_size": None,
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
    "routed_scaling_factor": 1,
    "eos_token_id": LLADA2_IDS["<|endoftext|>"],
    "pad_token_id": LLADA2_IDS["<|endoftext|>"],
}


def synthetic_a2d_qwen3(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny-a2d checkpoint of Qwen3 in so many weight files; `changes` are to its config. Returns the folder."""
    return _like_qwen(folder, {**A2D_CONFIG, **changes}, sdar_oracle, files, seed, "<|mask|>")


def synthetic_a2d_qwen2(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny-a2d checkpoint of Qwen2 in so many weight files; `changes` are to its config. Returns the folder."""
    return _like_qwen(folder, {**A2D_QWEN2_CONFIG, **changes}, dream_oracle, files, seed, "<|mask|>")


def synthetic_dream_reasoner(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a DreamReasoner checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    return _like_qwen(folder, {**DREAM_REASONER_CONFIG, **changes}, sdar_oracle, files, seed, "<|MASK|>")


def _like_qwen(
    folder: Path, config: dict[str, Any], oracle: Callable[..., Any], files: int, seed: int, mask: str
) -> Path:
    write_json(folder / "config.json", config)
    write_tensors(folder, stored(oracle(config, seed), tied=config["tie_word_embeddings"]), files)
    write_qwen_tokenizer(folder, {**QWEN_IDS, mask: QWEN_MASK_ID}, DREAM_TEMPLATE, mask_token=mask)
    return folder


def synthetic_rnd1(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write an RND1 checkpoint in so many weight files; `changes` are to its config. The tokenizer has no text for the
    mask. Returns the folder."""
    config = {**RND1_CONFIG, **changes}
    write_json(folder / "config.json", config)
    write_tensors(folder, apart(stored(sdar_moe_oracle(config, seed), tied=config["tie_word_embeddings"])), files)
    write_qwen_tokenizer(folder, QWEN_IDS, DREAM_TEMPLATE)
    return folder


def synthetic_stable_diffcoder(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a Stable-DiffCoder checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    return _like_seed(folder, {**DIFFCODER_CONFIG, **changes}, files, seed)


def synthetic_illada(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write an iLLaDA checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    return _like_seed(folder, {**ILLADA_CONFIG, **changes}, files, seed)


def _like_seed(folder: Path, config: dict[str, Any], files: int, seed: int) -> Path:
    """Token 5 is the mask, though the tokenizer has another text for it."""
    write_json(folder / "config.json", config)
    write_tensors(folder, stored(seed_oracle(config, seed), tied=config["tie_word_embeddings"]), files)
    write_fast_tokenizer(folder, LLADA2_SPECIAL, "<|startoftext|>", LLADA2_TEMPLATE)
    return folder


def synthetic_llada_moe(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write an LLaDA-MoE checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**LLADA_MOE_CONFIG, **changes}
    write_json(folder / "config.json", config)
    write_tensors(folder, apart(stored(llada_moe_oracle(config, seed), tied=False)), files)
    write_fast_tokenizer(folder, LLADA2_SPECIAL, "<|startoftext|>", LLADA2_TEMPLATE)
    return folder


FAMILIES = {
    "llada": synthetic_llada,
    "dream": synthetic_dream,
    "sdar": synthetic_sdar,
    "sdar_moe": synthetic_sdar_moe,
    "fast_dllm": synthetic_fast_dllm,
    "llada2": synthetic_llada2,
    "a2d_qwen3": synthetic_a2d_qwen3,
    "a2d_qwen2": synthetic_a2d_qwen2,
    "llada_moe": synthetic_llada_moe,
    "stable_diffcoder": synthetic_stable_diffcoder,
    "illada": synthetic_illada,
    "dream_reasoner": synthetic_dream_reasoner,
    "rnd1": synthetic_rnd1,
    "nemotron_diffusion": synthetic_nemotron,
}


# One for each way to attend and to predict. Laws of decoding are tested on these, and what concerns files on all.
KINDS = ("llada", "dream", "sdar", "fast_dllm", "llada2", "a2d_qwen3", "nemotron_diffusion")


def seed_oracle(config: Mapping[str, Any], seed: int = 0) -> LlamaForCausalLM:
    """The stock network that a Stable-DiffCoder or iLLaDA checkpoint must equal."""
    taken = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    stock = LlamaConfig(
        **{key: config[key] for key in (*taken, "intermediate_size", "rms_norm_eps", "tie_word_embeddings")},
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
    )
    return randomise(LlamaForCausalLM(stock), seed)


def llada_moe_oracle(config: Mapping[str, Any], seed: int = 0) -> Qwen3MoeForCausalLM:
    """The stock network that an LLaDA-MoE checkpoint must equal."""
    renamed = {
        "head_dim": config["hidden_size"] // config["num_attention_heads"],
        "intermediate_size": config["dense_intermediate_size"],
        "moe_intermediate_size": config["expert_intermediate_size"],
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
    }
    return sdar_moe_oracle({**config, **renamed}, seed)
