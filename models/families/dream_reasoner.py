"""DreamReasoner-8B (Dream-org): Qwen3, attending in blocks, logits not shifted. It shares Dream's `model_type` alone.

The first block begins at position 0 and the prompt is cut into blocks like the rest.
"""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, integer

MODEL_TYPE = "Dream"
ARCHITECTURES = ("DreamForCausalLM",)
MASK_TOKEN = "<|mask|>"
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED = {**qwen.SUPPORTED, "attention_bias": (False, None)}

BLOCK_SIZE = 32

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Qwen3's keys, and `block_size`. Heads are not a share of the width, so their own width must be there."""
    a = qwen.architecture(config, integer(config, "head_dim"), integer(config, "intermediate_size"))
    return replace(a, qk_norm=True, block_size=integer(config, "block_size", BLOCK_SIZE))
