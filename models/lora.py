"""Low-rank adapters in PEFT's layout (Hu et al., arXiv 2106.09685): W x becomes W x + s B A x, with s = alpha / r.

One adapter is merged into the weights when they are read, W + s B A. Several stay beside them, and each packed token
goes through the pair of its own request. An adapter is a folder with adapter_config.json and adapter_model.safetensors.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unmask.models.config import Config, read_json
from unmask.models.errors import CheckpointError, require_regular

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
FLOAT32 = torch.finfo(torch.float32)
FACTORS = ("lora_A", "lora_B")
# What PEFT can do and this does not: {key: the values that ask for nothing}.
PLAIN: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "lora_bias": (False, None),
    "layer_replication": (None,),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),  # of adapters that begin in the middle of a text
    "use_rslora": (True, False, None),
}
# Projections that tokens of several adapters may go through side by side; elsewhere an adapter can only be merged.
BESIDE = ("attention.q", "attention.k", "attention.v", "attention.o", "ffn.gate", "ffn.up", "ffn.down")


@dataclass(frozen=True)
class Factors:
    """down (r, in) and up (out, r), which holds the scale: the addition to W is up @ down."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True)
class Adapter:
    """One adapter: its name, and the factors for matrices by their names in the checkpoint."""

    name: str
    factors: Mapping[str, Factors]

    def nbytes(self, dtype: torch.dtype) -> int:
        """Bytes of all factors in a dtype."""
        return sum((f.down.numel() + f.up.numel()) * dtype.itemsize for f in self.factors.values())


@dataclass(frozen=True)
class Adapted:
    """The packed tokens of one adapter. Padding repeats the last.

    adapter  its place among the adapters of the model
    tokens   (P,) long  which of the N tokens of a pass
    wanted   (Q,) long  which of the M wanted ones
    """

    adapter: int
    tokens: Tensor
    wanted: Tensor


Groups = Sequence[tuple[int, Tensor]]  # of adapters, the tokens that are theirs


@dataclass
class Additions:
    """What adapters add to the outputs of one projection: {place of the adapter: its factors}."""

    of: dict[int, Factors] = field(default_factory=dict)

    def add(self, y: Tensor, x: Tensor, groups: Groups) -> Tensor:
        """y (n, out) of x (n, in), with each adapter's addition to its own tokens."""
        for adapter, index in groups:
            if (factors := self.of.get(adapter)) is not None:
                added = (x[index] @ factors.down.T) @ factors.up.T
                y = y.index_copy(0, index, y[index] + added)  # not index_add: padding repeats a token
        return y


def read_adapters(found: Iterable[tuple[Path, str]], names: Sequence[tuple[str, str]]) -> list[Adapter]:
    """The adapters in some folders, by their names. Raises CheckpointError as `read_adapter`, and for a name twice."""
    adapters = [read_adapter(folder, name, names) for folder, name in found]
    called = [adapter.name for adapter in adapters]
    if twice := [name for i, name in enumerate(called) if name in called[:i]]:
        raise CheckpointError(f"two adapters are called {twice[0]!r}; name one in --lora as {twice[0]}=ANOTHER")
    return adapters


def read_adapter(folder: Path, name: str, names: Sequence[tuple[str, str]]) -> Adapter:
    """The adapter in a folder, for a network with these pairs (name in the checkpoint, name in it).

    Raises CheckpointError, in one sentence, unless every tensor is one of a pair of factors for a matrix of the
    network, and every module that the adapter's config targets has its pair.
    """
    require_regular(folder / CONFIG_FILE)
    require_regular(folder / WEIGHTS_FILE)
    config = read_json(folder / CONFIG_FILE)
    scale = _scale(config, name)
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in _tensors(folder, name).items():
        module, factor = _split(key, name)
        found[module][factor] = tensor
    theirs = {pair[0] for pair in names}
    _check_targets(config, found.keys(), theirs, name)
    factors = {}
    for module, parts in found.items():
        if f"{module}.weight" not in theirs:
            raise CheckpointError(f"adapter {name!r} has factors for {module}, which the model does not have")
        factors[f"{module}.weight"] = _factors(module, parts, config, scale, name)
    return Adapter(name, factors)


def check_merge(adapter: Adapter, places: Mapping[str, list[Tensor]]) -> None:
    """Raise CheckpointError unless all of an adapter can be merged: {name in the checkpoint: parts of the network}."""
    for name, factors in adapter.factors.items():
        if name not in places:
            raise CheckpointError(
                f"adapter {adapter.name!r} changes {name}, which is the embedding, too; that is not done"
            )
        _check_shape(adapter, name, factors, places[name])


def merge(adapter: Adapter, places: Mapping[str, list[Tensor]]) -> None:
    """Add an adapter to the matrices of some names, in place: {name in the checkpoint: parts of the network}.

    `check_merge` says whether they fit.
    """
    for name, parts in places.items():
        if (factors := adapter.factors.get(name)) is None:
            continue
        added = factors.up.float() @ factors.down.float()
        for part, rows in zip(parts, added.split([len(part) for part in parts]), strict=True):
            part.copy_(part.float() + rows.to(part.device))


def attach(
    network: nn.Module,
    adapters: Sequence[Adapter],
    names: Sequence[tuple[str, str]],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Put adapters beside the projections of a network that is loaded; tokens choose theirs by `Adapted`.

    Raises CheckpointError for factors of another shape, and for matrices beside which none can be put.
    """
    ours: dict[str, list[str]] = defaultdict(list)
    for theirs, mine in names:
        ours[theirs].append(mine)
    for i, adapter in enumerate(adapters):
        for name, factors in adapter.factors.items():
            parts = [_projection(network, mine, adapter.name, name) for mine in ours[name]]
            _check_shape(adapter, name, factors, [linear.weight for linear, _ in parts])
            ups = factors.up.split([linear.out_features for linear, _ in parts])
            for (_, additions), up in zip(parts, ups, strict=True):
                additions.of[i] = Factors(factors.down.to(device, dtype), up.to(device, dtype))


def _projection(network: nn.Module, mine: str, adapter: str, theirs: str) -> tuple[nn.Linear, Additions]:
    """A projection by the name of its weight, and what is added to it."""
    block, _, inner = mine.removesuffix(".weight").removeprefix("blocks.").partition(".")
    if not mine.startswith("blocks.") or inner not in BESIDE:
        raise CheckpointError(
            f"adapter {adapter!r} changes {theirs}, beside which there is no place for one; give this --lora alone, "
            "so that it is merged"
        )
    module_name, _, leaf = inner.rpartition(".")
    module: Any = network.get_submodule(f"blocks.{block}.{module_name}")
    if leaf not in module.additions:
        raise CheckpointError(f"adapter {adapter!r} changes {theirs}, which is of experts; give this --lora alone")
    return getattr(module, leaf), module.additions[leaf]


def _scale(config: Config, name: str) -> float:
    """alpha / r, with rank stabilisation alpha / sqrt(r) (arXiv 2312.03732)."""
    for key, values in PLAIN.items():
        if config.get(key) not in values and not (key == "peft_type" and key not in config):
            raise CheckpointError(
                f"adapter {name!r} has {key} = {config[key]!r} in {CONFIG_FILE}; only plain LoRA is supported"
            )
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1 or not _is_finite(alpha):
        raise CheckpointError(f"adapter {name!r} must have numbers lora_alpha and r in {CONFIG_FILE}, r above 0")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _is_finite(value: object) -> TypeGuard[float]:
    """Whether a value of JSON, in which Python also reads NaN and Infinity, is a number of 32 bits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32.max


def _tensors(folder: Path, name: str) -> dict[str, Tensor]:
    file = folder / WEIGHTS_FILE
    if not file.exists():
        raise CheckpointError(f"adapter {name!r} has no {WEIGHTS_FILE} in {folder}; only safetensors is read")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or no safetensors file ({error}); download it again") from error


def _split(key: str, name: str) -> tuple[str, str]:
    """(module, lora_A or lora_B) of a tensor's name."""
    module, _, factor = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
    if not key.startswith(PREFIX) or not key.endswith(".weight") or factor not in FACTORS:
        raise CheckpointError(f"adapter {name!r} has a tensor {key}, which is no factor of LoRA; it is not understood")
    return module, factor


def _check_targets(config: Config, found: Iterable[str], theirs: Iterable[str], name: str) -> None:
    """Raise CheckpointError for a module that the config targets and that has no factors."""
    targets = config.get("target_modules")
    if not isinstance(targets, list) or config.get("layers_to_transform") is not None:
        return  # a pattern, or some layers only: what there is must fit, and more is not known
    modules = {theirs_name.removesuffix(".weight") for theirs_name in theirs if theirs_name.endswith(".weight")}
    wanted = {m for m in modules if any(m == target or m.endswith(f".{target}") for target in targets)}
    excluded = config.get("exclude_modules") or []
    if isinstance(excluded, list):
        wanted = {m for m in wanted if not any(m == one or m.endswith(f".{one}") for one in excluded)}
    if missing := sorted(wanted - set(found)):
        raise CheckpointError(f"adapter {name!r} targets {missing[0]} and has no factors for it; download it again")


def _factors(module: str, parts: Mapping[str, Tensor], config: Config, scale: float, name: str) -> Factors:
    if missing := [factor for factor in FACTORS if factor not in parts]:
        raise CheckpointError(f"adapter {name!r} lacks {missing[0]} of {module}; download it again")
    down, up = (parts[factor] for factor in FACTORS)
    if down.ndim != 2 or up.ndim != 2 or len(down) != config["r"] or up.shape[1] != config["r"]:
        raise CheckpointError(
            f"adapter {name!r} has factors of {list(down.shape)} and {list(up.shape)} for {module}; by its config the "
            f"rank is {config['r']}"
        )
    if not (down.is_floating_point() and up.is_floating_point()):
        raise CheckpointError(f"adapter {name!r} has factors of {down.dtype} for {module}; only plain numbers are read")
    return Factors(down, up.float() * scale)


def _check_shape(adapter: Adapter, name: str, factors: Factors, parts: Sequence[Tensor]) -> None:
    shape = [sum(len(part) for part in parts), parts[0].shape[-1]]
    found = [len(factors.up), factors.down.shape[1]]
    if found != shape or any(part.ndim != 2 for part in parts):
        raise CheckpointError(
            f"adapter {adapter.name!r} adds {found} to {name}, which is {shape}; it is another model's"
        )
