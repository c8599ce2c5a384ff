"""tiny-a2d from Qwen2.5-Coder (dLLM, github.com/ZHZisZZ/dllm): Qwen2, attending both ways or in blocks, logits not
shifted. See `a2d_qwen3`."""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, divide, integer
from unmask.models.families.a2d_qwen3 import in_blocks

MODEL_TYPE = "a2d-qwen2"
ARCHITECTURES = ("A2DQwen2LMHeadModel",)
MASK_TOKEN = "<|mask|>"
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED = qwen.SUPPORTED

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Qwen2's keys."""
    head_dim = divide(config, "hidden_size", "num_attention_heads", "the width of a head")
    a = qwen.architecture(config, head_dim, integer(config, "intermediate_size"))
    return in_blocks(replace(a, qkv_bias=True), config)
