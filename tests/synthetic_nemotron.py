"""Tiny checkpoints of Nemotron-Labs-Diffusion in their layout, the stock network that they must equal, and their loop.

Its rotation is stretched from 16 positions, so that short rows have all that long ones have: slowed dimensions, those
slowed in part, and queries that are scaled.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, Ministral3Config, Ministral3ForCausalLM

from tests.synthetic import (
    DREAM_TEMPLATE,
    VOCABULARY,
    randomise,
    stored,
    write_fast_tokenizer,
    write_json,
    write_tensors,
)

SPECIAL = ("<s>", "</s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<SPECIAL_100>")
IDS = {text: len(VOCABULARY) + i for i, text in enumerate(SPECIAL)}
ROPE: dict[str, Any] = {
    "beta_fast": 1.0,
    "beta_slow": 0.05,
    "factor": 16.0,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 100.0,
    "rope_type": "yarn",
}
CONFIG: dict[str, Any] = {
    "architectures": ["NemotronLabsDiffusionModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_implementation": "sdpa",
    "auto_map": {
        "AutoConfig": "configuration_nemotron_labs_diffusion.NemotronLabsDiffusionConfig",
        "AutoModel": "modeling_nemotron_labs_diffusion.NemotronLabsDiffusionModel",
    },
    "block_size": 8,
    "bos_token_id": IDS["<s>"],
    "dlm_paradigm": "bidirectional",
    "eos_token_id": IDS["<|im_end|>"],
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 80,
    "mask_token_id": IDS["<SPECIAL_100>"],
    "max_position_embeddings": 256,
    "mlp_bias": False,
    "model_type": "nemotron_labs_diffusion",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-05,
    "rope_parameters": ROPE,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_cache": False,
    "vocab_size": 288,
}


def synthetic_nemotron(folder: Path, files: int = 1, seed: int = 0, **changes: Any) -> Path:
    """Write a checkpoint in so many weight files; `changes` are to its config. Returns the folder."""
    config = {**CONFIG, **changes}
    write_json(folder / "config.json", config)
    state = stored(nemotron_oracle(config, seed), tied=config["tie_word_embeddings"])
    write_tensors(folder, {_name(name): tensor for name, tensor in state.items()}, files)
    write_fast_tokenizer(folder, SPECIAL, "<s>", DREAM_TEMPLATE)
    return folder


def _name(stock: str) -> str:
    return "diffusion_head.weight" if stock == "lm_head.weight" else stock.replace("model.", "encoder.", 1)


def nemotron_oracle(config: Mapping[str, Any], seed: int = 0) -> Ministral3ForCausalLM:
    """The stock network that a checkpoint of this config and seed must equal."""
    taken = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
    more = ("intermediate_size", "rms_norm_eps", "tie_word_embeddings", "max_position_embeddings")
    stock = Ministral3Config(
        **{key: config[key] for key in (*taken, *more)}, rope_parameters=dict(config["rope_parameters"])
    )
    return randomise(Ministral3ForCausalLM(stock), seed)


@torch.no_grad()
def open_logits(oracle: Ministral3ForCausalLM, tokens: Tensor, first: int) -> Tensor:
    """Logits (B, T, V) of rows (B, T) whose columns before `first` are read from left to right; the others see all."""
    column = torch.arange(tokens.shape[1])
    seen = (column <= column[:, None]) | (column >= first)[:, None]
    mask = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, -torch.inf).expand(len(tokens), -1, -1, -1)
    logits: Tensor = oracle(tokens, attention_mask=mask).logits
    return logits


@torch.no_grad()
def nemotron_generate(
    oracle: Ministral3ForCausalLM,
    prompt: Sequence[int],
    gen_length: int,
    block_length: int,
    mask_id: int,
    threshold: float | None = None,
) -> tuple[list[int], int]:
    """Its published loop with its cache, at temperature 0: the tokens, and how many passes it had after the prompt's.

    The first token of a block is what the causal pass over all before it predicts. Then each pass over the block, which
    sees all of itself, reveals the surest token, or all that are surer than the threshold. A causal pass over the whole
    block makes the keys that stay.
    """
    cache, passes = DynamicCache(config=oracle.config), 0

    def run(tokens: Tensor, causal: bool) -> Tensor:
        before, count = cache.get_seq_length(), len(tokens)
        mask = torch.zeros(1, 1, count, before + count)
        if causal:
            mask.masked_fill_(torch.ones(count, before + count).triu(before + 1).bool(), -torch.inf)
        logits: Tensor = oracle(tokens[None], attention_mask=mask, past_key_values=cache, use_cache=True).logits[0]
        if not causal:
            cache.crop(-count)
        return logits

    found: list[int] = []
    last = run(torch.tensor(prompt), causal=True)[-1]
    for _ in range(0, gen_length, block_length):
        block = torch.full((block_length,), mask_id)
        block[0] = last.argmax()
        while (masked := block == mask_id).any():
            confidence, proposal = run(block, causal=False).softmax(-1).max(-1)
            confidence[~masked] = -torch.inf
            chosen = confidence == confidence.max()
            if threshold is not None:
                chosen |= confidence > threshold
            block[chosen] = proposal[chosen]
            passes += 1
        last = run(block, causal=True)[-1]
        passes += 1
        found += block.tolist()
    return found, passes
