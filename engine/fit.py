"""Whether a network fits a machine: the sums that loading it and dividing the memory beside it make, made before."""

from dataclasses import dataclass, replace

import torch

from unmask.engine.room import cache_columns
from unmask.models.devices import available_bytes
from unmask.models.loading import Model
from unmask.models.memory import needed_bytes, weight_bytes
from unmask.models.quantization import has_int4, precision
from unmask.models.transformer import MaskedTransformer

# What a model may be served in: (dtype, quantization).
PRECISIONS = (("float32", None), ("bfloat16", None), ("bfloat16", "int8"), ("bfloat16", "int4"))


@dataclass(frozen=True)
class Fit:
    """What a network takes in one precision, and what a device has for it. Sizes in bytes.

    weights    of the weights alone
    needed     for loading and a short pass; with less, loading is refused
    available  on the device now
    columns    tokens whose keys and values fit beside the weights, for all rows together; none if it does not fit
    """

    dtype: str
    quantization: str | None
    weights: int
    needed: int
    available: int
    columns: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    @property
    def precision(self) -> str:
        """What it computes in, in words."""
        return precision(getattr(torch, self.dtype), self.quantization)


def fit_of_loaded(model: Model, max_rows: int, memory_fraction: float) -> Fit:
    """How a model that was just loaded fits its device, counted as before it was loaded."""
    with torch.device("meta"):
        # The loaded one has joined and packed matrices.
        a = replace(model.network.architecture, max_positions=model.max_positions)
        network = MaskedTransformer(a, model.network.split)
    dtype = str(model.dtype).removeprefix("torch.")
    available = available_bytes(model.device) + weight_bytes(network, model.dtype, model.quantization, model.device)
    return fit_of(network, dtype, model.quantization, model.device, available, max_rows, memory_fraction)


def fit_of(
    network: MaskedTransformer,
    dtype: str,
    quantization: str | None,
    device: torch.device,
    available: int,
    max_rows: int,
    memory_fraction: float,
) -> Fit:
    """How a network, as it is built, fits into so many bytes of a device; the last two are as `Engine` takes them."""
    of = getattr(torch, dtype)
    weights = weight_bytes(network, of, quantization, device)
    needed = needed_bytes(network, of, quantization, device)
    left = available - weights if needed <= available else 0
    a = network.architecture
    columns = cache_columns(a, of, left, max_rows, a.max_positions, memory_fraction)
    return Fit(dtype, quantization, weights, needed, available, columns)


def fits(
    network: MaskedTransformer, device: torch.device, available: int, max_rows: int, memory_fraction: float
) -> list[Fit | None]:
    """How a network, as it is built, fits into so many bytes of a device, in each precision; None: there is none."""
    return [
        fit_of(network, dtype, kind, device, available, max_rows, memory_fraction) if there else None
        for dtype, kind in PRECISIONS
        for there in [
            kind != "int4" or has_int4(getattr(torch, dtype), device, network.architecture.experts is not None)
        ]
    ]
