"""A model from a folder or the Hub, ready to run: network, tokenizer and the ids that matter. No remote code runs."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.fx.experimental._config

from unmask.models.architecture import Architecture
from unmask.models.checkpoint import load_weights, weight_files
from unmask.models.config import Config, read_json
from unmask.models.devices import choose_device, make_current
from unmask.models.errors import CheckpointError
from unmask.models.experts import MixtureOfExperts
from unmask.models.families import Family, find_family
from unmask.models.hub import Source, fetch_weights, locate, locate_adapter, verify_weights
from unmask.models.lora import attach, read_adapters
from unmask.models.memory import bound_kernel_caches, require_memory, weight_bytes
from unmask.models.presets import Preset, find_preset
from unmask.models.quantization import choose_packing, precision
from unmask.models.split import ALONE, Split
from unmask.models.tokenizer import Tokenizer
from unmask.models.transformer import MaskedTransformer
from unmask.settings import ModelSettings

log = logging.getLogger(__name__)

MAX_COMPILED_VERSIONS = 32
# How the names of checkpoints begin that were trained with another input state than masks. No config.json tells it:
# RCD (arXiv 2601.22954) is published as yuezhouhu/RCD-*, DMax (arXiv 2604.08302) as Zigeng/DMax-*.
INPUT_STATES = {"RCD-": "residual", "DMax-": "soft"}
# tiny-a2d's checkpoints have one config.json, whether they attend both ways, as those with MDLM in their names, or in
# blocks, as those with BD3LM; 32 is the block of dLLM's sampler.
A2D_TYPES = ("a2d-qwen2", "a2d-qwen3")
A2D_BLOCK = 32
EXPAND_TOKEN = "<|expand|>"  # DreamOn's, which no other public masked diffusion model has
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# Of a generation region for which none is asked for.
LEAST_LENGTH = 64
FULL_LENGTH = 256  # of a model that computes the whole canvas in each pass
CAUSAL_LENGTH = 2048  # of a block-causal one
POSITIONS_PER_TOKEN = 8  # the rest is for conversations


@dataclass(frozen=True)
class Model:
    """A network that runs, and what its tokens mean.

    name           for the API: the Hub id, or the name of the folder
    network        in eval mode, without gradients
    mask_id        the token that stands for "not written yet"
    stop_ids       tokens that end a text
    vocab_size     token ids from this one on have no text; neither they nor mask_id may be proposed
    max_positions  longest canvas, in tokens
    compiled       whether calling the network runs compiled kernels
    quantization   how the matrices of the network's blocks are kept; None in the dtype
    input_state    what it was trained to be fed in place of masks, by its name
    preset         what it was named by, if that was a short name
    merged         the adapter that its weights hold; None if there is none
    adapters       those beside its weights, of which a request may choose one
    """

    name: str
    network: MaskedTransformer
    tokenizer: Tokenizer
    mask_id: int
    stop_ids: frozenset[int]
    vocab_size: int
    max_positions: int
    device: torch.device
    dtype: torch.dtype
    compiled: bool = False
    quantization: str | None = None
    input_state: str = "mask"
    preset: Preset | None = None
    merged: str | None = None
    adapters: tuple[str, ...] = ()

    @property
    def expand_id(self) -> int | None:
        """The token that stands for two masks, see `engine.growth`; None if it has none."""
        return self.tokenizer.token_id(EXPAND_TOKEN)

    @property
    def usual_length(self) -> int:
        """Tokens to generate where nobody says how many: the preset's number, or as many as answers of such models have
        room for, and not so many that a pass over all of them costs much. A block-causal model computes no block after
        the end of a text."""
        if self.preset is not None and self.preset.max_tokens is not None:
            return min(self.preset.max_tokens, self.max_positions // 2)
        longest = FULL_LENGTH if self.network.architecture.block_size is None else CAUSAL_LENGTH
        return max(LEAST_LENGTH, min(longest, self.max_positions // POSITIONS_PER_TOKEN))

    @property
    def precision(self) -> str:
        """What it computes in, in words."""
        return precision(self.dtype, self.quantization)


def load_configured(settings: ModelSettings, chat_template: str | None = None, split: Split = ALONE) -> Model:
    """Load the model that a command's settings name. Raises CheckpointError."""
    return load_model(
        settings.model,
        settings.revision,
        settings.device,
        settings.dtype,
        settings.compile,
        settings.quantization,
        chat_template,
        settings.verify,
        settings.lora,
        split,
    )


def load_model(
    source: str,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compiled: bool | None = False,
    quantization: str | None = None,
    chat_template: str | None = None,
    verify: bool = False,
    lora: Sequence[str] = (),
    split: Split = ALONE,
) -> Model:
    """Load a model for inference.

    source         a folder, the name of a preset or of a shipped checkpoint, or a Hub id
    revision       branch, tag or commit of a Hub id
    device, dtype  see `choose_device` and `choose_dtype`
    compiled       whether torch.compile makes the network's kernels; None on CUDA only
    quantization   int8 or int4 rounds the matrices of the blocks as they are read, see `models.quantization`
    chat_template  in Jinja, instead of the checkpoint's
    verify         whether the bytes of weights from the Hub are checked by the hashes that it states
    lora           adapters, each a folder or a Hub id, and perhaps =name: one is merged, several stay beside
    split          the part of the network to load

    Raises CheckpointError, in one sentence, for whatever keeps it from being loaded exactly as it was saved.
    """
    make_current(on := choose_device(device))
    as_dtype = choose_dtype(dtype, on)
    found, preset = _locate(source, revision)
    family = find_family(config := _read_config(found))
    network = build_network(family, config, split)
    pack = choose_packing(quantization, as_dtype, on, network.architecture.experts is not None)
    tokenizer = Tokenizer(found.folder, family.TOKENIZER, chat_template)
    mask_id, stop_ids = special_ids(family, config, tokenizer, network.architecture, preset)
    names = list(family.tensor_names(network.architecture))
    adapters = read_adapters(map(locate_adapter, lora), names)
    require_memory(network, on, as_dtype, quantization, beside=sum(one.nbytes(as_dtype) for one in adapters))
    bound_kernel_caches()
    _fetch(found, verify)
    _log_reading(found, network, as_dtype, quantization, on)
    merged = adapters.pop() if len(adapters) == 1 else None
    load_weights(network, found.folder, names, on, as_dtype, pack, merged)
    attach(network, adapters, names, on, as_dtype)
    return Model(
        name=found.name,
        network=network.eval(),
        tokenizer=tokenizer,
        mask_id=mask_id,
        stop_ids=stop_ids,
        vocab_size=len(tokenizer),
        max_positions=network.architecture.max_positions,
        device=on,
        dtype=as_dtype,
        compiled=compile_network(network, on, compiled if split.alone else False),
        quantization=quantization,
        input_state=_input_state(found, preset),
        preset=preset,
        merged=None if merged is None else merged.name,
        adapters=tuple(adapter.name for adapter in adapters),
    )


def _locate(source: str, revision: str | None) -> tuple[Source, Preset | None]:
    """Where the checkpoint is, and the preset that `source` names, if it does."""
    preset = find_preset(source)
    if preset is None:
        return locate(source, revision), None
    return locate(preset.checkpoint, revision or preset.revision), preset


def _read_config(found: Source) -> Config:
    """config.json, with `block_size` where only the name says that the checkpoint attends in blocks: that of the Hub id
    or the folder, or of the nearest folder above whose name says which of the two it is, as in the Hub's cache."""
    config = read_json(found.folder / "config.json")
    if config.get("model_type") not in A2D_TYPES or config.get("block_size") is not None:
        return config
    names = [found.name, *reversed(found.folder.parts)]
    said = next((name.lower() for name in names if "-mdlm" in name.lower() or "-bd3lm" in name.lower()), "")
    if "-bd3lm" not in said:
        return config
    log.info("%s attends in blocks of %d from the end of the prompt, as its name says", found.name, A2D_BLOCK)
    return {**config, "block_size": A2D_BLOCK}


def _fetch(found: Source, verify: bool) -> None:
    """Have the weights in the source's folder, and their bytes checked if that is asked for."""
    files = weight_files(found.folder)
    fetch_weights(found, files)
    if verify:
        verify_weights(found, files)


def _log_reading(
    found: Source, network: MaskedTransformer, dtype: torch.dtype, quantization: str | None, device: torch.device
) -> None:
    gigabytes = weight_bytes(network, dtype, quantization, device) / 1e9
    log.info("reading %s: %.1f GB in %s, for %s", found.name, gigabytes, precision(dtype, quantization), device)


def _input_state(found: Source, preset: Preset | None) -> str:
    """What its requests are fed by default; the log says so where that is no mask."""
    state = (preset and preset.input_state) or trained_input_state(found.name)
    if state != "mask":
        log.info("%s was trained with input state %r, which its requests get by default", found.name, state)
    return state


def trained_input_state(name: str) -> str:
    """What a checkpoint of this name, a Hub id or a folder's, was trained to be fed in place of masks."""
    last = name.rpartition("/")[2]
    return next((state for prefix, state in INPUT_STATES.items() if last.startswith(prefix)), "mask")


def compile_network(network: MaskedTransformer, device: torch.device, compiled: bool | None) -> bool:
    """Let torch.compile make the kernels if `compiled` says so, or is None and the device is CUDA; whether it does."""
    if compiled is None:
        compiled = device.type == "cuda"
    if compiled:
        # Computed keys, cached ones or both, kept or not, one row or several, with vectors in place of some tokens or
        # not: torch must not give up before all of them are compiled. Sizes that are equal by chance must not be
        # assumed to be always equal: that would add versions.
        torch._dynamo.config.recompile_limit = max(MAX_COMPILED_VERSIONS, torch._dynamo.config.recompile_limit)
        torch.fx.experimental._config.use_duck_shape = False
        for module in network.modules():
            if isinstance(module, MixtureOfExperts):
                module.stay_uncompiled()
        network.compile(dynamic=True)
    return compiled


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch dtype for auto, float32, bfloat16 or float16; auto is bfloat16 on CUDA and on a CPU that multiplies it
    natively, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" or _cpu_multiplies_bfloat16() else torch.float32
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name!r} is unknown; choose auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16; without them, float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def build_network(family: Family, config: Config, split: Split = ALONE) -> MaskedTransformer:
    """The network of a config, or a rank's part of it, on the meta device: shapes without memory."""
    a = family.architecture(config)
    if a.heads % a.kv_heads or a.head_dim % 2:
        raise CheckpointError(
            f"config.json has {a.heads} heads of width {a.head_dim} and {a.kv_heads} key/value heads; "
            "heads must be a multiple of key/value heads and the width even"
        )
    with torch.device("meta"):
        return MaskedTransformer(split.share(a), split.of(a))


def special_ids(
    family: Family, config: Config, tokenizer: Tokenizer, a: Architecture, preset: Preset | None = None
) -> tuple[int, frozenset[int]]:
    """The mask id and the ids that end a text. Raises CheckpointError where config, tokenizer and network disagree."""
    if len(tokenizer) > a.vocab_rows:
        raise CheckpointError(f"the tokenizer has {len(tokenizer)} tokens, the network only {a.vocab_rows} rows")
    ends = config.get("eos_token_id")
    named = ends if isinstance(ends, list) else [] if ends is None else [ends]
    known = [tokenizer.token_id(text) for text in family.STOP_TOKENS]
    stops = {_checked(end, "eos_token_id", a) for end in named} | {end for end in known if end is not None}
    stops |= {_checked(end, f"a stop id of preset {preset.name}", a) for end in preset.stop_ids} if preset else set()
    mask = _mask_id(family, config, tokenizer, a)
    if mask in stops:
        raise CheckpointError(f"token {mask} is both the mask and an end of text; correct mask_token_id in config.json")
    return mask, frozenset(stops)


def _mask_id(family: Family, config: Config, tokenizer: Tokenizer, a: Architecture) -> int:
    """config.json's, else the one that the tokenizer declares, else the token with the family's text for it."""
    declared, known = config.get("mask_token_id"), tokenizer.mask_id
    if declared is not None and known is not None and declared != known:
        raise CheckpointError(f"mask_token_id is {declared} in config.json, {known} in the tokenizer; make them agree")
    usual = family.MASK_TOKEN if isinstance(family.MASK_TOKEN, int) else tokenizer.token_id(family.MASK_TOKEN)
    choices = (declared, known, usual)
    chosen = next((choice for choice in choices if choice is not None), None)
    if chosen is None:
        raise CheckpointError(f"config.json lacks mask_token_id and the tokenizer has no {family.MASK_TOKEN!r}; set it")
    return _checked(chosen, "mask_token_id", a)


def _checked(token: object, key: str, a: Architecture) -> int:
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < a.vocab_rows:
        raise CheckpointError(f"{key} is {token!r}; set it in config.json to a token id below {a.vocab_rows}")
    return token
