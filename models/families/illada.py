"""iLLaDA-8B, Base and Instruct (GSAI-ML): Llama with fewer key/value heads, attending both ways, its head tied.

The mask is token 5, which neither config nor tokenizer declares.
"""

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, divide, integer

MODEL_TYPE = None  # of no published config that was seen
ARCHITECTURES = ("ILLaDAForCausalLM",)
MASK_TOKEN = 5
STOP_TOKENS = ()
TOKENIZER = "PreTrainedTokenizerFast"

SUPPORTED = {
    **qwen.SUPPORTED,
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "layer_norm_eps": (None,),  # a number names a LayerNorm
}

tensor_names = qwen.tensor_names  # Llama's, which Qwen2 has kept


def architecture(config: Config) -> Architecture:
    """Read Llama's keys."""
    head_dim = divide(config, "hidden_size", "num_attention_heads", "the width of a head")
    return qwen.architecture(config, integer(config, "head_dim", head_dim), integer(config, "intermediate_size"))
