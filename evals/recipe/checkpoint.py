"""Writing a trained model as LLaDA's Hugging Face repositories are written."""

import json
from pathlib import Path

from safetensors.torch import save
from tokenizers import Tokenizer

from unmask.evals.recipe.blueprints import Blueprint
from unmask.evals.recipe.tokenizer import save_tokenizer, token_id
from unmask.models.families import llada
from unmask.models.loading import DTYPES
from unmask.models.transformer import MaskedTransformer


def save_checkpoint(blueprint: Blueprint, network: MaskedTransformer, tokenizer: Tokenizer, folder: Path) -> None:
    """Write config.json, model.safetensors in the config's dtype, and the tokenizer's files."""
    folder.mkdir(parents=True, exist_ok=True)
    special = {key: token_id(tokenizer, name) for key, name in _SPECIAL_IDS.items()}
    (folder / "config.json").write_text(json.dumps({**blueprint.config, **special}, indent=2) + "\n")
    parameters, dtype = dict(network.named_parameters()), DTYPES[blueprint.config["torch_dtype"]]
    tensors = {
        theirs: parameters[ours].detach().to("cpu", dtype).contiguous()
        for theirs, ours in llada.tensor_names(blueprint.architecture)
    }
    weights = save(tensors, metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)  # save_file lets only the owner read it
    save_tokenizer(tokenizer, folder)


_SPECIAL_IDS = {"mask_token_id": "mask_token", "eos_token_id": "eos_token", "pad_token_id": "eos_token"}
