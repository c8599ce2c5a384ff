"""tiny-a2d from Qwen3 (dLLM, github.com/ZHZisZZ/dllm): Qwen3, logits not shifted.

The MDLM ones attend both ways. The BD3LM ones attend in blocks that are counted from the end of the prompt, as dLLM's
sampler has it. Their config.json is the same: `models.loading` reads from the name which it is, and adds `block_size`.
"""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, integer

MODEL_TYPE = "a2d-qwen3"
ARCHITECTURES = ("A2DQwen3LMHeadModel",)
MASK_TOKEN = "<|mask|>"
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED = {**qwen.SUPPORTED, "attention_bias": (False, None)}

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Qwen3's keys. Heads are not a share of the width, so their own width must be there."""
    a = qwen.architecture(config, integer(config, "head_dim"), integer(config, "intermediate_size"))
    return in_blocks(replace(a, qk_norm=True), config)


def in_blocks(a: Architecture, config: Config) -> Architecture:
    """The same architecture; with `block_size` in the config, block-causal from the end of the prompt."""
    if config.get("block_size") is None:
        return a
    return replace(a, block_size=integer(config, "block_size"), from_prompt_end=True)
