"""Dream-7B (Ye et al., arXiv 2508.15487) and DiffuCoder-7B (Gong et al., arXiv 2506.20639): Qwen2, attending both ways.

They keep the habit of the autoregressive models that they were trained from: the raw logits at position i predict token
i + 1. `Architecture.shift` undoes that inside the network.
"""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, divide, integer

MODEL_TYPE = "Dream"
ARCHITECTURES = ("DreamModel",)
MASK_TOKEN = "<|mask|>"
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|dlm_pad|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED = {**qwen.SUPPORTED, "use_mrope": (False, None)}

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Qwen2's keys."""
    head_dim = divide(config, "hidden_size", "num_attention_heads", "the width of a head")
    a = qwen.architecture(config, head_dim, integer(config, "intermediate_size"))
    return replace(a, qkv_bias=True, shift=True)
