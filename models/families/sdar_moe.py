"""SDAR-30B-A3B (Cheng et al., arXiv 2510.06303): Qwen3 with experts, attending in blocks. See `sdar`."""

from dataclasses import replace

from unmask.models import qwen
from unmask.models.architecture import Architecture, Experts
from unmask.models.config import Config, at_most, expert_count, integer

MODEL_TYPE = "sdar_moe"
ARCHITECTURES = ("SDARMoeForCausalLM",)
MASK_TOKEN = "<|MASK|>"
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED = {
    **qwen.SUPPORTED,
    "attention_bias": (False, None),
    "norm_topk_prob": (True,),
    "decoder_sparse_step": (1, None),
    "mlp_only_layers": ([], None),
}

BLOCK_SIZE = 4  # the published configs name none

tensor_names = qwen.tensor_names


def architecture(config: Config) -> Architecture:
    """Read Qwen3-MoE's keys. Every layer has experts, so `intermediate_size`, of dense ones, is not read."""
    count, ffn_size = expert_count(config, "num_experts"), integer(config, "moe_intermediate_size")
    experts = Experts(count, at_most(config, "num_experts_per_tok", count, "num_experts"), ffn_size)
    a = qwen.architecture(config, integer(config, "head_dim"), ffn_size)
    return replace(a, qk_norm=True, experts=experts, block_size=integer(config, "block_size", BLOCK_SIZE))
