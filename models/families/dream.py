"""Dream-7B (Ye et al., arXiv 2508.15487) and DiffuCoder-7B (Gong et al., arXiv 2506.20639): Qwen2, attending both ways.

They keep the habit of the autoregressive models that they were trained from: the raw logits at position i predict token
i + 1. `Architecture.shift` undoes that inside the network.
"""

from collections.abc import Iterator

from models.config import Config, divide, flag, integer, number
from models.transformer import Architecture

MODEL_TYPE = "Dream"
ARCHITECTURES = ("DreamModel",)
MASK_ID = 151666
STOP_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|dlm_pad|>")
TOKENIZER = "Qwen2Tokenizer"

SUPPORTED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu",),
    "rope_scaling": (None,),
    "rope_parameters": (None,),
    "use_mrope": (False, None),
    "use_sliding_window": (False, None),
}


def architecture(config: Config) -> Architecture:
    """Read Qwen2's keys."""
    return Architecture(
        vocab_rows=integer(config, "vocab_size"),
        width=integer(config, "hidden_size"),
        layers=integer(config, "num_hidden_layers"),
        heads=integer(config, "num_attention_heads"),
        kv_heads=integer(config, "num_key_value_heads"),
        head_dim=divide(config, "hidden_size", "num_attention_heads", "the width of a head"),
        ffn_width=integer(config, "intermediate_size"),
        norm_eps=number(config, "rms_norm_eps"),
        rope_theta=number(config, "rope_theta"),
        max_positions=integer(config, "max_position_embeddings"),
        qkv_bias=True,
        tied_head=flag(config, "tie_word_embeddings"),
        shift=True,
    )


def tensor_names(a: Architecture) -> Iterator[tuple[str, str]]:
    """Pairs (name in the checkpoint, name in MaskedTransformer)."""
    yield "model.embed_tokens.weight", "embed.weight"
    yield "model.norm.weight", "norm.weight"
    yield "lm_head.weight", "head.weight"
    leaves = {
        "input_layernorm.weight": "attn_norm.weight",
        "self_attn.q_proj.weight": "q.weight",
        "self_attn.q_proj.bias": "q.bias",
        "self_attn.k_proj.weight": "k.weight",
        "self_attn.k_proj.bias": "k.bias",
        "self_attn.v_proj.weight": "v.weight",
        "self_attn.v_proj.bias": "v.bias",
        "self_attn.o_proj.weight": "o.weight",
        "post_attention_layernorm.weight": "ffn_norm.weight",
        "mlp.gate_proj.weight": "gate.weight",
        "mlp.up_proj.weight": "up.weight",
        "mlp.down_proj.weight": "down.weight",
    }
    for i in range(a.layers):
        for theirs, ours in leaves.items():
            yield f"model.layers.{i}.{theirs}", f"blocks.{i}.{ours}"
