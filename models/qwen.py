"""The config keys and tensor names of Qwen2 and Qwen3, which the families that were trained from them have kept."""

from collections.abc import Iterator

from unmask.models.architecture import Architecture, Experts
from unmask.models.config import Config, flag, integer, layer_count, number

# None stands where Qwen's own default for an absent key is the same.
SUPPORTED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "rope_parameters": (None,),
    "use_sliding_window": (False, None),
}

FEED_FORWARD = {
    "mlp.gate_proj.weight": "ffn.gate.weight",
    "mlp.up_proj.weight": "ffn.up.weight",
    "mlp.down_proj.weight": "ffn.down.weight",
}
_ATTENTION = {f"self_attn.{x}_proj.weight": f"attention.{x}.weight" for x in "qkvo"}
_BIASES = {f"self_attn.{x}_proj.bias": f"attention.{x}.bias" for x in "qkv"}
_QK_NORMS = {f"self_attn.{x}_norm.weight": f"attention.{x}_norm.weight" for x in "qk"}
_NORMS = {"input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight"}


def architecture(config: Config, head_dim: int, ffn_size: int) -> Architecture:
    """What Qwen2 and Qwen3 have in common."""
    return Architecture(
        vocab_rows=integer(config, "vocab_size"),
        hidden_size=integer(config, "hidden_size"),
        layers=layer_count(config, "num_hidden_layers"),
        heads=integer(config, "num_attention_heads"),
        kv_heads=integer(config, "num_key_value_heads"),
        head_dim=head_dim,
        ffn_size=ffn_size,
        norm_eps=number(config, "rms_norm_eps"),
        rope_theta=number(config, "rope_theta"),
        max_positions=integer(config, "max_position_embeddings"),
        tied_head=flag(config, "tie_word_embeddings"),
    )


def tensor_names(a: Architecture) -> Iterator[tuple[str, str]]:
    """Pairs (name in the checkpoint, name in MaskedTransformer)."""
    yield "model.embed_tokens.weight", "embed.weight"
    yield "model.norm.weight", "norm.weight"
    yield "lm_head.weight", "head.weight"
    leaves = [*_NORMS.items(), *_ATTENTION.items()]
    leaves += _BIASES.items() if a.qkv_bias else ()
    leaves += _QK_NORMS.items() if a.qk_norm else ()
    leaves += FEED_FORWARD.items() if a.experts is None else expert_names(a.experts)
    for i in range(a.layers):
        for theirs, ours in leaves:
            yield f"model.layers.{i}.{theirs}", f"blocks.{i}.{ours}"


def expert_names(experts: Experts) -> Iterator[tuple[str, str]]:
    """Pairs of a layer with experts. Each expert has three tensors of its own; the network stacks them."""
    yield "mlp.gate.weight", "ffn.router.weight"
    for i in range(experts.count):
        yield f"mlp.experts.{i}.gate_proj.weight", "ffn.gate_up"
        yield f"mlp.experts.{i}.up_proj.weight", "ffn.gate_up"
        yield f"mlp.experts.{i}.down_proj.weight", "ffn.down"
