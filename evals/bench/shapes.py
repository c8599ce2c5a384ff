"""Networks of published shapes with random weights: what a step costs can be measured without a download.

Texts mean nothing; times and memory are those of the published network.
"""

from unmask.models.config import Config, integer
from unmask.models.devices import choose_device
from unmask.models.families import find_family
from unmask.models.hub import locate
from unmask.models.loading import Model, build_network, choose_dtype, compile_network
from unmask.models.memory import require_memory
from unmask.models.tokenizer import Tokenizer
from unmask.models.transformer import Block
from unmask.settings import DEFAULT_MODEL

INITIAL_STD = 0.02  # of LLaDA's config.json, init_std

# config.json of GSAI-ML/LLaDA-8B-Instruct, as far as it decides shapes.
LLADA_8B: Config = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "d_model": 4096,
    "n_layers": 32,
    "n_heads": 32,
    "n_kv_heads": 32,
    "mlp_hidden_size": 12288,
    "vocab_size": 126464,
    "embedding_size": 126464,
    "max_sequence_length": 4096,
    "rope": True,
    "rope_theta": 500000.0,
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-5,
    "activation_type": "silu",
    "block_type": "llama",
    "include_bias": False,
    "weight_tying": False,
    "mask_token_id": 126336,
    "eos_token_id": 126081,
}
SHAPES: dict[str, Config] = {"llada-8b": LLADA_8B}


def random_model(
    config: Config,
    name: str,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool | None = False,
    tokenizer: Tokenizer | None = None,
) -> Model:
    """A model of some config, as one of SHAPES, with normal weights; with the embedded model's tokenizer, if none is
    given. Raises CheckpointError if the device has too little memory."""
    family = find_family(config)
    on = choose_device(device)
    as_dtype = choose_dtype(dtype, on)
    network = build_network(family, config)
    require_memory(network, on, as_dtype, None)
    network.to(as_dtype).to_empty(device=on)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        parameter.fill_(1) if parameter.ndim == 1 else parameter.normal_(std=INITIAL_STD)
    for block in network.blocks:
        assert isinstance(block, Block)
        block.fuse(None)
    tokenizer = tokenizer or Tokenizer(locate(DEFAULT_MODEL, None).folder, family.TOKENIZER, None)
    return Model(
        name=f"{name} with random weights",
        network=network.eval(),
        tokenizer=tokenizer,
        mask_id=integer(config, "mask_token_id"),
        stop_ids=frozenset({integer(config, "eos_token_id")}),
        vocab_size=len(tokenizer),
        max_positions=network.architecture.max_positions,
        device=on,
        dtype=as_dtype,
        compiled=compile_network(network, on, compiled),
    )
