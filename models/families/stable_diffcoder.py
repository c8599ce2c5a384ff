"""Stable-DiffCoder-8B, Base and Instruct (ByteDance Seed): Llama, attending in blocks of 4, logits not shifted.

Earlier revisions name Llama's class as their architecture and their own in `auto_map`. The mask is token 5, which
neither config nor tokenizer declares.
"""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, divide, integer

MODEL_TYPE = "llama"
ARCHITECTURES = ("StableDiffcoderForCausalLM", "SeedDiffcoderForCausalLM")
MASK_TOKEN = 5
STOP_TOKENS = ()
TOKENIZER = "PreTrainedTokenizerFast"

SUPPORTED = {
    **qwen.SUPPORTED,
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "layer_norm_eps": (None,),  # a number names a LayerNorm
}

BLOCK_SIZE = 4  # the published configs name none

tensor_names = qwen.tensor_names  # Llama's, which Qwen2 has kept


def architecture(config: Config) -> Architecture:
    """Read Llama's keys."""
    head_dim = divide(config, "hidden_size", "num_attention_heads", "the width of a head")
    a = qwen.architecture(config, integer(config, "head_dim", head_dim), integer(config, "intermediate_size"))
    return replace(a, block_size=integer(config, "block_size", BLOCK_SIZE))
