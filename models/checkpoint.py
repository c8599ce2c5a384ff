"""Weights from safetensors files into a network: every tensor accounted for, and one at a time."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from models.config import read_json
from models.errors import CheckpointError
from models.transformer import MaskedTransformer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
IGNORED = ("*.rotary_emb.inv_freq",)  # computed, not learned; older exports store it
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and what the header of its file says of it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights, from the index if there is one. They need not be there yet."""
    if not (folder / INDEX_FILE).exists():
        return [SINGLE_FILE]
    weight_map = read_json(folder / INDEX_FILE).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{INDEX_FILE} has no weight_map that says which file holds which tensor")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors") or "/" in file or "\\" in file:
            raise CheckpointError(f"{INDEX_FILE} puts {tensor} in {file!r}; only .safetensors files beside it are read")
    return sorted(set(weight_map.values()))


def load_weights(
    network: MaskedTransformer,
    folder: Path,
    names: Iterable[tuple[str, str]],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fill a network that was built on the meta device.

    names  pairs (name in the checkpoint, parameter of the network)

    Each tensor goes straight to its device and dtype, so there is never a second copy of more than one. Raises
    CheckpointError if a tensor is missing, extra or misshapen; all of that is checked before the first is read.
    """
    stored = _read_headers([folder / name for name in weight_files(folder)])
    parameters = dict(network.named_parameters())  # a tied head is not in it: it is the embedding
    names = list(names)
    wanted = {theirs: ours for theirs, ours in names if ours in parameters}
    tied = {theirs for theirs, ours in names if ours not in parameters}
    _check_coverage(stored, {theirs: parameters[ours].shape for theirs, ours in wanted.items()}, tied)
    for theirs, tensor in _read_tensors(stored, wanted, device):
        # On the CPU the tensor is a view of the file, which must not be able to change under a running network.
        copied = tensor.to(dtype, copy=device.type == "cpu")
        _assign(network, wanted[theirs], nn.Parameter(copied, requires_grad=False))
    if network.architecture.tied_head:
        network.head.weight = network.embed.weight


def _read_headers(files: list[Path]) -> dict[str, StoredTensor]:
    stored: dict[str, StoredTensor] = {}
    for path in files:
        with _open(path, torch.device("cpu")) as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if name in stored:
                    raise CheckpointError(f"tensor {name} is both in {stored[name].file.name} and in {path.name}")
                header = file.get_slice(name)
                stored[name] = StoredTensor(path, tuple(header.get_shape()), header.get_dtype())
    return stored


def _check_coverage(stored: Mapping[str, StoredTensor], shapes: Mapping[str, torch.Size], tied: set[str]) -> None:
    """Every tensor that the network wants is there with its shape, and every other one may be left out."""
    if missing := shapes.keys() - stored.keys():
        raise CheckpointError(f"the checkpoint lacks {_listed(missing)}; download it again or check its config.json")
    extra = {name for name in stored.keys() - shapes.keys() - tied if not any(fnmatch(name, p) for p in IGNORED)}
    if extra:
        raise CheckpointError(f"the checkpoint has {_listed(extra)}, which a network of its config.json does not")
    for name, shape in shapes.items():
        _check_header(name, stored[name], shape)


def _check_header(name: str, found: StoredTensor, shape: torch.Size) -> None:
    where = f"tensor {name} in {found.file.name}"
    if found.shape != tuple(shape):
        raise CheckpointError(f"{where} has shape {list(found.shape)}; by its config.json it must be {list(shape)}")
    if found.dtype not in PLAIN_DTYPES:
        raise CheckpointError(f"{where} has dtype {found.dtype}; only {', '.join(PLAIN_DTYPES)} are supported")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"tensor {first}" + (f" and {len(others)} more" if others else "")


def _read_tensors(
    stored: Mapping[str, StoredTensor], wanted: Iterable[str], device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name in wanted:
        by_file[stored[name].file].append(name)
    for path, names in by_file.items():
        with _open(path, device) as file:
            for name in names:
                yield name, file.get_tensor(name)


@contextmanager
def _open(path: Path, device: torch.device) -> Iterator[Any]:
    """A safetensors file. The library checks its header against its length, here it becomes one sentence."""
    if not path.exists():
        raise CheckpointError(
            f"{path.parent} has no {path.name}; only safetensors is read: download or convert the weights"
        )
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); download it again") from error


def _assign(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    module, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(module), leaf, parameter)
