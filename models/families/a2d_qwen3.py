"""tiny-a2d from Qwen3, the MDLM ones (dLLM, github.com/ZHZisZZ/dllm): Qwen3, attending both ways, logits not shifted.

BD3LM ones have the same config.json and attend in blocks that begin at the end of the prompt: `models.loading` refuses
them by their name.
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
    return replace(a, qk_norm=True)
