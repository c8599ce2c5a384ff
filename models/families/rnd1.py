"""RND1-30B-A3B (Radical Numerics, github.com/RadicalNumerics/RND1): Qwen3 with experts, attending both ways.

As in Dream, the raw logits at position i predict token i + 1. The mask is a token that the tokenizer has no text for.
"""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config
from unmask.models.families import sdar_moe

MODEL_TYPE = "rnd1"
ARCHITECTURES = ("RND1", "RND1LM")  # the converter of llama.cpp knows the first; the class has the second name
MASK_TOKEN = 151669
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED = {
    **sdar_moe.SUPPORTED,
    "rope_scaling": (None, False),
    "sliding_window": (None, False),
}

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Qwen3-MoE's keys. Every layer has experts."""
    return replace(sdar_moe.architecture(config), shift=True, block_size=None)
