"""LLaDA-MoE-7B-A1B (Zhu et al., arXiv 2509.24389): like Qwen3 with experts, attending both ways.

The weights of the chosen experts are softmax scores as they are: they are not made to sum to 1.
"""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture, Experts
from unmask.models.config import Config, at_most, divide, expert_count, integer
from unmask.models.errors import CheckpointError

MODEL_TYPE = "llada"
ARCHITECTURES = ("LLaDAMoEModelLM", "LLaDAMoEModel")
MASK_TOKEN = "<|mask|>"
STOP_TOKENS = ("<|endoftext|>", "<|role_end|>")
TOKENIZER = "PreTrainedTokenizerFast"

SUPPORTED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "partial_rotary_factor": (1, None),
    "qk_layernorm": (True,),
    "attention_bias": (False, None),
    "clip_qkv": (None,),
    "moe_router_score_function": ("softmax",),
    "moe_router_enable_expert_bias": (False, None),
    "routed_scaling_factor": (1, None),
    "shared_expert_intermediate_size": (None, 0),
}

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read its keys. Every layer must have experts."""
    layers, every = config.get("moe_layer_freq"), integer(config, "num_hidden_layers")
    if layers is not None and layers != [1] * every:
        raise CheckpointError(
            f"config.json has moe_layer_freq = {layers}; only 1 for each of {every} layers is supported"
        )
    count, ffn_size = expert_count(config, "num_experts"), integer(config, "expert_intermediate_size")
    chosen = at_most(config, "num_experts_per_tok", count, "num_experts")
    head_dim = divide(config, "hidden_size", "num_attention_heads", "the width of a head")
    a = qwen.architecture(config, head_dim, ffn_size)
    return replace(a, qk_norm=True, experts=Experts(count, chosen, ffn_size, sums_to_one=False))
