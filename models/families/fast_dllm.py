"""Fast-dLLM v2 1.5B and 7B (Wu et al., arXiv 2509.26328): Qwen2, attending in blocks.

The first block begins at position 0 and the prompt is cut into blocks like the rest. As in Dream, the raw logits at
position i predict token i + 1, so that the first token of a block is predicted from the block before it.
"""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, divide, integer

MODEL_TYPE = "Fast_dLLM_Qwen"
ARCHITECTURES = ("Fast_dLLM_QwenForCausalLM",)
MASK_TOKEN = "|<MASK>|"  # not declared as such, neither in the config nor in the tokenizer
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED = qwen.SUPPORTED

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Qwen2's keys, and `bd_size`."""
    head_dim = divide(config, "hidden_size", "num_attention_heads", "the width of a head")
    a = qwen.architecture(config, head_dim, integer(config, "intermediate_size"))
    return replace(a, qkv_bias=True, shift=True, block_size=integer(config, "bd_size"))
