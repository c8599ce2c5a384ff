"""Nemotron-Labs-Diffusion-3B, 8B and 14B (Fu et al., arXiv 2607.05722): Ministral 3, read from left to right up to the
current block, which alone sees all of itself. Logits are not shifted in it.

Published decoding (`generate` in modeling_nemotron_labs_diffusion.py, `causal_context`, its default) makes keys of the
prompt and of each finished block by a causal pass, whose last position also predicts the first token of the next block.
Blocks are counted from the end of the prompt and may have any length: with 1 it is autoregressive decoding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from unmask.models import qwen
from unmask.models.architecture import Architecture, LongContext
from unmask.models.config import Config, integer, number, require_supported
from unmask.models.errors import CheckpointError

MODEL_TYPE = "nemotron_labs_diffusion"
ARCHITECTURES = ("NemotronLabsDiffusionModel",)
MASK_TOKEN = 100
STOP_TOKENS = ("<|im_end|>",)
TOKENIZER = "PreTrainedTokenizerFast"

SUPPORTED = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "dlm_paradigm": ("bidirectional",),
}
ROTATION = {
    "rope_type": ("yarn",),
    "mscale": (1, None),
    "mscale_all_dim": (1, None),  # the same as mscale, so that sines and cosines keep their size
    "attention_factor": (None,),
    "truncate": (True, None),
    "partial_rotary_factor": (1, None),
}


def architecture(config: Config) -> Architecture:
    """Read Ministral's keys, and `block_size`. Raises CheckpointError."""
    rope = _rotation(config)
    flat = {**config, "rope_theta": rope["rope_theta"]}
    a = qwen.architecture(flat, integer(config, "head_dim"), integer(config, "intermediate_size"))
    long = LongContext(
        positions=integer(rope, "original_max_position_embeddings"),
        factor=number(rope, "factor"),
        fast=number(rope, "beta_fast"),
        slow=number(rope, "beta_slow"),
        query_beta=number(rope, "llama_4_scaling_beta"),
    )
    block_size = integer(config, "block_size")
    return replace(a, block_size=block_size, from_prompt_end=True, causal=True, long_context=long)


def _rotation(config: Config) -> Mapping[str, Any]:
    """The keys of `rope_parameters`. Raises CheckpointError."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        raise CheckpointError("config.json lacks the object 'rope_parameters', which says how positions are rotated")
    require_supported(rope, ROTATION)
    number(rope, "rope_theta")
    return rope


def tensor_names(a: Architecture) -> Iterator[tuple[str, str]]:
    """Ministral's names, with the network under `encoder` and the head as `diffusion_head`."""
    for theirs, ours in qwen.tensor_names(a):
        yield ("diffusion_head.weight" if ours == "head.weight" else f"encoder.{theirs.removeprefix('model.')}"), ours
