"""Weights from safetensors files into a network: every tensor accounted for, and one at a time."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unmask.models.config import read_json
from unmask.models.errors import CheckpointError, require_regular
from unmask.models.lora import Adapter, check_merge, merge
from unmask.models.quantization import Pack
from unmask.models.split import Region, Split
from unmask.models.transformer import Block, MaskedTransformer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
IGNORED = ("*.rotary_emb.inv_freq",)  # computed, not learned; older exports store it
HEADER_BYTES, TENSOR_BYTES = 1 << 20, 1 << 10  # of a header: what it may take, and besides for each tensor
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is stored, and what the header of its file says about it."""

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
    pack: Pack | None = None,
    adapter: Adapter | None = None,
) -> None:
    """Fill a network that was built on the meta device, and make it ready for inference.

    names  pairs (name in the checkpoint, parameter or buffer of the network)
    pack   quantises a matrix; those of the blocks are
    adapter  is merged into what is read, before it is quantised

    A name in the checkpoint that stands in several pairs is a tensor whose rows are those of several parameters, one
    after another; a parameter that stands in several is filled by equal runs of rows from several tensors. Each tensor
    goes straight to its device and dtype, and a block is fused and packed before the next is read: what is not yet as
    it will stay is never more than one block. Of a network that is split, only the rank's own regions are read. Raises
    CheckpointError if a tensor is missing, extra or misshapen; all of that is checked before the first is read.
    """
    network.split.require_aligned(network.architecture, dtype)
    names = list(names)
    stored = _read_headers([folder / name for name in weight_files(folder)], len(names))
    places = _places(network, names)
    regions = _regions(network.split, names)
    tied = {theirs for theirs, _ in names} - places.keys()
    _check_coverage(stored, {name: _joined_shape(parts, regions[name]) for name, parts in places.items()}, tied)
    if adapter is not None:
        check_merge(adapter, places)
    for part, pairs in _by_part(names).items():
        _allocate(network, part, device, dtype)
        _fill(_places(network, pairs), regions, stored, device)
        if adapter is not None:
            merge(adapter, _places(network, pairs))
        module = network.get_submodule(part)
        if isinstance(module, Block):
            module.fuse(pack)


def _by_part(names: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """The pairs of each block of a network, and of each module beside them."""
    parts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in names:
        outer, inner, *_ = pair[1].split(".")
        parts[f"{outer}.{inner}" if outer == "blocks" else outer].append(pair)
    return parts


def _fill(
    places: Mapping[str, list[Tensor]],
    regions: Mapping[str, list[Region]],
    stored: Mapping[str, StoredTensor],
    device: torch.device,
) -> None:
    for theirs, tensor in _read_tensors(stored, places, regions, device):
        start = 0
        for part, region in zip(places[theirs], regions[theirs], strict=True):
            part.copy_(tensor[region.slices(part.shape, start)])
            start += region.stored(part.shape)[0]


def _regions(split: Split, names: list[tuple[str, str]]) -> dict[str, list[Region]]:
    """{name in the checkpoint: the region of each parameter that its rows fill}."""
    regions: dict[str, list[Region]] = defaultdict(list)
    for theirs, ours in names:
        regions[theirs].append(split.region(ours))
    return dict(regions)


def _places(network: nn.Module, names: list[tuple[str, str]]) -> dict[str, list[Tensor]]:
    """{name in the checkpoint: the parts of the network that its rows fill}."""
    whole = {**dict(network.named_parameters()), **dict(network.named_buffers())}  # a tied head is in neither
    pairs = Counter(ours for _, ours in names)
    runs = {ours: iter(whole[ours].flatten(0, -2).chunk(n)) for ours, n in pairs.items() if n > 1}
    places: dict[str, list[Tensor]] = defaultdict(list)
    for theirs, ours in names:
        if ours in whole:
            places[theirs].append(next(runs[ours]) if ours in runs else whole[ours])
    return dict(places)


def _joined_shape(parts: list[Tensor], regions: list[Region]) -> tuple[int, ...]:
    """The shape of the stored tensor."""
    shapes = [region.stored(part.shape) for part, region in zip(parts, regions, strict=True)]
    return sum(shape[0] for shape in shapes), *shapes[0][1:]


def _allocate(network: MaskedTransformer, part: str, device: torch.device, dtype: torch.dtype) -> None:
    """Memory for what of a part is on the meta device: parameters in the dtype, buffers in their own."""
    module = network.get_submodule(part)
    for name, parameter in list(module.named_parameters()):
        if parameter.is_meta:  # the embedding's, where it is the head's too, is there
            empty = torch.empty(parameter.shape, dtype=dtype, device=device)  # empty_like would import sympy
            _assign(module, name, nn.Parameter(empty, requires_grad=False))
    for name, buffer in list(module.named_buffers()):
        _assign(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
    if network.architecture.tied_head:
        network.head.weight = network.embed.weight


def _read_headers(files: list[Path], tensors: int) -> dict[str, StoredTensor]:
    """The headers of all tensors in the files. `tensors` is how many the network has."""
    stored: dict[str, StoredTensor] = {}
    for path in files:
        _check_header_size(path, tensors)
        with _open(path, torch.device("cpu")) as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                if name in stored:
                    raise CheckpointError(f"tensor {name} is both in {stored[name].file.name} and in {path.name}")
                header = file.get_slice(name)
                stored[name] = StoredTensor(path, tuple(header.get_shape()), header.get_dtype())
    return stored


def _check_header_size(path: Path, tensors: int) -> None:
    """Raise CheckpointError for a header that is too large: the library takes half a minute for a million tensors."""
    _require_weights(path)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; make it readable") from error
    if size > HEADER_BYTES + TENSOR_BYTES * tensors:
        raise CheckpointError(
            f"{path} is damaged or another network's: its header of {size} bytes is too long for the {tensors} "
            "tensors of its config.json; download it again"
        )


def _check_coverage(stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]], tied: set[str]) -> None:
    """Raise CheckpointError unless every tensor of the network is present with its shape, and no other one is."""
    if missing := shapes.keys() - stored.keys():
        raise CheckpointError(f"the checkpoint lacks {_listed(missing)}; download it again or check its config.json")
    extra = {name for name in stored.keys() - shapes.keys() - tied if not any(fnmatch(name, p) for p in IGNORED)}
    if extra:
        raise CheckpointError(f"the checkpoint has {_listed(extra)}, which a network of its config.json does not")
    for name, shape in shapes.items():
        _check_header(name, stored[name], shape)


def _check_header(name: str, found: StoredTensor, shape: tuple[int, ...]) -> None:
    where = f"tensor {name} in {found.file.name}"
    if found.shape != shape:
        raise CheckpointError(f"{where} has shape {list(found.shape)}; by its config.json it must be {list(shape)}")
    if found.dtype not in PLAIN_DTYPES:
        raise CheckpointError(f"{where} has dtype {found.dtype}; only {', '.join(PLAIN_DTYPES)} are supported")


def _listed(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"tensor {first}" + (f" and {len(others)} more" if others else "")


def _read_tensors(
    stored: Mapping[str, StoredTensor],
    wanted: Iterable[str],
    regions: Mapping[str, list[Region]],
    device: torch.device,
) -> Iterator[tuple[str, Any]]:
    """Tensors by their names; one of which only a part is kept is read when it is indexed."""
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name in wanted:
        by_file[stored[name].file].append(name)
    for path, names in by_file.items():
        with _open(path, device) as file:
            for name in names:
                in_parts = any(region.count > 1 for region in regions[name])
                yield name, file.get_slice(name) if in_parts else file.get_tensor(name)


def _require_weights(path: Path) -> None:
    require_regular(path)
    if not path.exists():
        raise CheckpointError(
            f"{path.parent} has no {path.name}; only safetensors is read: download the file, or convert the weights"
        )


@contextmanager
def _open(path: Path, device: torch.device) -> Iterator[Any]:
    """A safetensors file. The library checks its header against its length; its error becomes one sentence."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}); download it again") from error


def _assign(network: nn.Module, name: str, tensor: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(module), leaf, tensor)
