"""LLaDA2.0, 2.1 and 2.2, mini and flash (Bie et al., arXiv 2512.15745): Ling-2.0 with experts, attending in blocks.

The first block begins at position 0 and the prompt is cut into blocks like the rest. Layers are dense up to
`first_k_dense_replace`; one stored tensor holds queries, keys and values; half of each head is rotated. With
`expert_capacity`, as in 2.2, each block keeps so many experts, and the groups of the config count for nothing.
"""

from collections.abc import Iterator

from unmask.models.architecture import Architecture, BlockExperts, Experts, Groups
from unmask.models.config import Config, at_most, divide, expert_count, flag, integer, layer_count, number
from unmask.models.errors import CheckpointError
from unmask.models.qwen import FEED_FORWARD, expert_names

MODEL_TYPE = "llada2_moe"
ARCHITECTURES = ("LLaDA2MoeModelLM",)
MASK_TOKEN = "<|mask|>"
STOP_TOKENS = ("<|endoftext|>", "<|role_end|>")
TOKENIZER = "PreTrainedTokenizerFast"

SUPPORTED: dict[str, tuple[object, ...]] = {
    "hidden_act": ("silu", None),
    "rope_scaling": (None,),
    "use_sliding_window": (False, None),
    "use_qk_norm": (True,),
    "use_bias": (False, None),
    "use_qkv_bias": (False, None),
    "norm_head": (False, None),
    "score_function": ("sigmoid",),
    "norm_topk_prob": (True,),
    "moe_router_enable_expert_bias": (True,),
    "router_dtype": ("fp32", None),  # any other is rounded, and rounding changes the choice
}

BLOCK_SIZE = 32  # the published configs name none


def architecture(config: Config) -> Architecture:
    """Read Ling-2.0's keys."""
    return Architecture(
        vocab_rows=integer(config, "vocab_size"),
        hidden_size=integer(config, "hidden_size"),
        layers=layer_count(config, "num_hidden_layers"),
        heads=integer(config, "num_attention_heads"),
        kv_heads=integer(config, "num_key_value_heads"),
        head_dim=integer(config, "head_dim"),
        rotary_dim=_rotary_dim(config),
        ffn_size=integer(config, "intermediate_size"),
        norm_eps=number(config, "rms_norm_eps"),
        rope_theta=number(config, "rope_theta"),
        max_positions=integer(config, "max_position_embeddings"),
        qk_norm=True,
        tied_head=flag(config, "tie_word_embeddings"),
        experts=_experts(config),
        block_size=integer(config, "block_size", BLOCK_SIZE),
    )


def _rotary_dim(config: Config) -> int:
    head_dim, factor = integer(config, "head_dim"), number(config, "partial_rotary_factor")
    rotated = int(head_dim * factor)
    if rotated != head_dim * factor or rotated % 2 or rotated > head_dim:
        raise CheckpointError(
            f"config.json has partial_rotary_factor = {factor}, which must leave an even number of a head's "
            f"{head_dim} dimensions to rotate"
        )
    return rotated


def _experts(config: Config) -> Experts:
    by_block = config.get("expert_capacity") is not None
    groups, open_to_token, which = _block_experts(config) if by_block else _groups(config)
    ffn_size = integer(config, "moe_intermediate_size")
    return Experts(
        count=expert_count(config, "num_experts"),
        chosen=at_most(config, "num_experts_per_tok", open_to_token, which),
        ffn_size=ffn_size,
        first_layer=integer(config, "first_k_dense_replace"),
        shared_size=integer(config, "num_shared_experts") * ffn_size,
        groups=groups,
    )


def _groups(config: Config) -> tuple[Groups, int, str]:
    """The groups, how many experts are open to a token, and what those are."""
    groups = Groups(
        count=integer(config, "n_group"),
        kept=at_most(config, "topk_group", integer(config, "n_group"), "n_group"),
        scale=number(config, "routed_scaling_factor"),
    )
    of_group = divide(config, "num_experts", "n_group", "the experts of a group")
    if of_group < 2:
        raise CheckpointError("config.json has num_experts = n_group; a group is judged by its two best experts")
    return groups, of_group * groups.kept, "the experts of topk_group groups"


def _block_experts(config: Config) -> tuple[BlockExperts, int, str]:
    """As `_groups`. The block is that of the attention; a config that names a capacity must name it."""
    kept = at_most(config, "expert_capacity", expert_count(config, "num_experts"), "num_experts")
    blocks = BlockExperts(integer(config, "block_size"), kept, number(config, "routed_scaling_factor"))
    return blocks, kept, "expert_capacity"


def tensor_names(a: Architecture) -> Iterator[tuple[str, str]]:
    """Pairs (name in the checkpoint, name in MaskedTransformer)."""
    yield "model.word_embeddings.weight", "embed.weight"
    yield "model.norm.weight", "norm.weight"
    yield "lm_head.weight", "head.weight"
    assert a.experts is not None
    for i in range(a.layers):
        leaves = FEED_FORWARD.items() if i < a.experts.first_layer else _sparse_names(a.experts)
        for theirs, ours in (*_ATTENTION, *leaves):
            yield f"model.layers.{i}.{theirs}", f"blocks.{i}.{ours}"


_ATTENTION = (
    ("input_layernorm.weight", "attn_norm.weight"),
    ("attention.query_key_value.weight", "attention.q.weight"),  # its rows are those of the three
    ("attention.query_key_value.weight", "attention.k.weight"),
    ("attention.query_key_value.weight", "attention.v.weight"),
    ("attention.query_layernorm.weight", "attention.q_norm.weight"),
    ("attention.key_layernorm.weight", "attention.k_norm.weight"),
    ("attention.dense.weight", "attention.o.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
)


def _sparse_names(experts: Experts) -> Iterator[tuple[str, str]]:
    yield from expert_names(experts)
    yield "mlp.gate.expert_bias", "ffn.router.bias"
    for part in ("gate", "up", "down"):
        yield f"mlp.shared_experts.{part}_proj.weight", f"ffn.shared.{part}.weight"
