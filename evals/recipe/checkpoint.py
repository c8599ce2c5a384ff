"""The embedded model's shape, and writing it as LLaDA's Hugging Face repositories are written."""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from unmask.evals.recipe.tokenizer import save_tokenizer, token_id
from unmask.models.families import llada
from unmask.models.transformer import MaskedTransformer

# More rows than tokens, a multiple of 64, as real checkpoints have them.
CONFIG = {
    "model_type": "llada",
    "architectures": ["LLaDAModelLM"],
    "d_model": 192,
    "n_layers": 8,
    "n_heads": 3,
    "n_kv_heads": 3,
    "mlp_hidden_size": 512,
    "mlp_ratio": 4,
    "vocab_size": 1536,
    "embedding_size": 1536,
    "max_sequence_length": 512,
    "rope": True,
    "rope_theta": 10000.0,
    "rope_full_precision": True,
    "alibi": False,
    "layer_norm_type": "rms",
    "rms_norm_eps": 1e-5,
    "layer_norm_with_affine": True,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "activation_type": "silu",
    "block_type": "llama",
    "block_group_size": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "weight_tying": False,
    "scale_logits": False,
    "torch_dtype": "bfloat16",
}
ARCHITECTURE = llada.architecture(CONFIG)


def save_checkpoint(network: MaskedTransformer, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {key: token_id(tokenizer, name) for key, name in _SPECIAL_IDS.items()}
    (folder / "config.json").write_text(json.dumps({**CONFIG, **special}, indent=2) + "\n")
    parameters = dict(network.named_parameters())
    tensors = {
        theirs: parameters[ours].detach().to("cpu", torch.bfloat16).contiguous()
        for theirs, ours in llada.tensor_names(ARCHITECTURE)
    }
    weights = save(tensors, metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)  # save_file lets only the owner read it
    save_tokenizer(tokenizer, folder)


_SPECIAL_IDS = {"mask_token_id": "mask_token", "eos_token_id": "eos_token", "pad_token_id": "eos_token"}
