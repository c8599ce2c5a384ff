"""The model families: one module each, found by being in this folder.

A family says how to read its checkpoints; the network is `models.transformer`. `Family` lists what a module defines.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Protocol, cast

from unmask.models.architecture import Architecture
from unmask.models.config import Config, require_plain, require_supported
from unmask.models.errors import CheckpointError
from unmask.models.tokenizer import TokenizerKind

# Models that are asked for and not supported, by `model_type`: what they do that no network here does.
MISSING = {
    "nemotron_labs_diffusion_vlm": "Nemotron-Labs-Diffusion-VLM reads images, too, for which nothing is built here",
}


class Family(Protocol):
    """What a module in this folder defines.

    MODEL_TYPE     `model_type` of its config.json; None for any
    ARCHITECTURES  values of `architectures[0]`, or of the class in `auto_map`; they choose the family
    SUPPORTED      {config key: the values that the network can do}; None among them allows an absent key
    MASK_TOKEN     text or id of the mask token, where neither the config nor the tokenizer says which token is it
    STOP_TOKENS    tokens that end a text, beside the config's eos_token_id; those not in the tokenizer are skipped
    TOKENIZER      which tokenizer class reads its files
    """

    MODEL_TYPE: str | None
    ARCHITECTURES: tuple[str, ...]
    SUPPORTED: dict[str, tuple[object, ...]]
    MASK_TOKEN: str | int
    STOP_TOKENS: tuple[str, ...]
    TOKENIZER: TokenizerKind

    def architecture(self, config: Config) -> Architecture:
        """The network that a config describes. Raises CheckpointError naming the key that is absent or wrong."""

    def tensor_names(self, a: Architecture) -> Iterator[tuple[str, str]]:
        """Pairs (name in the checkpoint, name in MaskedTransformer), the head's included even where it is tied.

        A name on either side may stand in several pairs; `models.checkpoint.load_weights` says what that means.
        """


def families() -> list[Family]:
    """All families, by module name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [cast(Family, importlib.import_module(f"{__name__}.{name}")) for name in names]


def find_family(config: Config) -> Family:
    """The family that a config belongs to.

    `architectures[0]` decides, since different families share a `model_type` (LLaDA and LLaDA-MoE; Dream and
    DreamReasoner); where no family knows it, the class that `auto_map` names does. Raises CheckpointError for an
    unknown one, and for a config that asks for what the family cannot do.
    """
    require_plain(config)
    _require_not_missing(config)
    architectures, model_type = config.get("architectures"), config.get("model_type")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    for name in (named, _own_class(config)):
        for family in families():
            if name in family.ARCHITECTURES:
                types = {} if family.MODEL_TYPE is None else {"model_type": (family.MODEL_TYPE,)}
                require_supported(config, {**types, **family.SUPPORTED})
                return family
    known = ", ".join(name for family in families() for name in family.ARCHITECTURES)
    raise CheckpointError(
        f"config.json has architecture {named!r} (model_type {model_type!r}), which is not supported; "
        f"the supported architectures are: {known}"
    )


def _require_not_missing(config: Config) -> None:
    model_type = config.get("model_type")
    if isinstance(model_type, str) and model_type in MISSING:
        raise CheckpointError(
            f"config.json has model_type {model_type!r}, which is not supported: {MISSING[model_type]}; choose another "
            "model, `unmask models` lists some"
        )


def _own_class(config: Config) -> str | None:
    """The class that a config says loads the checkpoint. It is a name here: no code is loaded."""
    auto_map = config.get("auto_map")
    where = auto_map.get("AutoModelForCausalLM") if isinstance(auto_map, dict) else None
    return where.rpartition(".")[2] if isinstance(where, str) else None
