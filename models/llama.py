"""What families with Llama's keys and tensor names share."""

from unmask.models import qwen
from unmask.models.architecture import Architecture
from unmask.models.config import Config, divide, integer

SUPPORTED = {
    **qwen.SUPPORTED,
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "layer_norm_eps": (None,),  # a number names a LayerNorm
}

tensor_names = qwen.tensor_names  # Llama's, which Qwen2 has kept


def architecture(config: Config) -> Architecture:
    """Read Llama's keys. Raises CheckpointError."""
    head_dim = divide(config, "hidden_size", "num_attention_heads", "the width of a head")
    return qwen.architecture(config, integer(config, "head_dim", head_dim), integer(config, "intermediate_size"))
