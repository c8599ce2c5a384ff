"""LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA-1.5 (Nie et al., arXiv 2502.09992; Zhu et al., arXiv 2505.19223)."""

from collections.abc import Iterator

from unmask.models.architecture import Architecture
from unmask.models.config import Config, divide, flag, integer, layer_count, number

MODEL_TYPE = "llada"
ARCHITECTURES = ("LLaDAModelLM",)
MASK_TOKEN = "<|mdm_mask|>"
STOP_TOKENS = ("<|endoftext|>", "<|eot_id|>")
TOKENIZER = "PreTrainedTokenizerFast"

# Any other value names a different network. None stands where LLaDA's own default for an absent key is the same.
SUPPORTED: dict[str, tuple[object, ...]] = {
    "alibi": (False, None),
    "rope": (True,),
    "block_type": ("llama",),
    "block_group_size": (1, None),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True, None),
    "activation_type": ("silu",),
    "attention_layer_norm": (False, None),
    "input_emb_norm": (False, None),
    "include_bias": (False, None),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "scale_logits": (False, None),
    "clip_qkv": (None,),
    "num_experts": (None,),  # LLaDA-MoE has the same model_type
}


def architecture(config: Config) -> Architecture:
    """Read LLaDA's keys. Its class defaults are GPT-2's, so an absent structural key is an error, not a default."""
    heads = integer(config, "n_heads")
    return Architecture(
        vocab_rows=integer(config, "embedding_size", integer(config, "vocab_size")),
        hidden_size=integer(config, "d_model"),
        layers=layer_count(config, "n_layers"),
        heads=heads,
        kv_heads=integer(config, "n_kv_heads", 1 if flag(config, "multi_query_attention", False) else heads),
        head_dim=divide(config, "d_model", "n_heads", "the width of a head"),
        ffn_size=_ffn_size(config),
        norm_eps=number(config, "rms_norm_eps"),
        rope_theta=number(config, "rope_theta"),
        max_positions=integer(config, "max_sequence_length"),
        tied_head=flag(config, "weight_tying"),
        rope_float32=flag(config, "rope_full_precision", True),
    )


def _ffn_size(config: Config) -> int:
    """`mlp_ratio` counts only where `mlp_hidden_size` is absent or null."""
    if config.get("mlp_hidden_size") is None:
        return integer(config, "mlp_ratio") * integer(config, "d_model")
    return integer(config, "mlp_hidden_size")


def tensor_names(a: Architecture) -> Iterator[tuple[str, str]]:
    """Pairs (name in the checkpoint, name in MaskedTransformer). `ff_out` is a down-projection and the head."""
    yield "model.transformer.wte.weight", "embed.weight"
    yield "model.transformer.ln_f.weight", "norm.weight"
    yield "model.transformer.ff_out.weight", "head.weight"
    leaves = {
        "attn_norm": "attn_norm",
        "q_proj": "attention.q",
        "k_proj": "attention.k",
        "v_proj": "attention.v",
        "attn_out": "attention.o",
        "ff_norm": "ffn_norm",
        "ff_proj": "ffn.gate",
        "up_proj": "ffn.up",
        "ff_out": "ffn.down",
    }
    for i in range(a.layers):
        for theirs, ours in leaves.items():
            yield f"model.transformer.blocks.{i}.{theirs}.weight", f"blocks.{i}.{ours}.weight"
