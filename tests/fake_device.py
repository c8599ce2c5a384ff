"""An engine on a device that is not there: every operator runs on shapes, dtypes and devices alone, and is watched.

It shows what a CUDA device would trip over: operands on two devices, reads by the host, shapes that depend on values,
transfers beside the one upload a step. It does not show what a kernel does. The device is called "lazy", since that is
one which PyTorch knows, has no kernels for, and needs no driver for; all that matters is that it is not the CPU.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unmask.engine import Engine, Request, Reveal
from unmask.engine.canvas import Canvas
from unmask.engine.decided import Decided
from unmask.engine.recording import reads_host
from unmask.engine.transfer import leaves, pack
from unmask.models.cache import KeyValues
from unmask.models.loading import Model
from unmask.policies.scheduler import LearnedPolicy

DEVICE = torch.device("lazy", 0)
WIDE = (torch.float64, torch.complex128)


class Watch(TorchDispatchMode):
    """Counts what no step may do, and transfers.

    faults   by the operator: host reads, operands on two devices, and float64 where there is none
    uploads  from the CPU to the device
    """

    def __init__(self, no_float64: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._no_float64 = no_float64
        self.faults: Counter[str] = Counter()
        self.uploads = 0
        self.operators = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {x.device.type for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        if DEVICE.type in before:
            self.operators += 1
            if reads_host(func, args):
                self.faults[f"{func} reads"] += 1
            if "cpu" in before:
                self.faults[f"{func} has operands on two devices"] += 1
        output = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(output) if isinstance(x, Tensor)]
        if self._no_float64 and any(x.dtype in WIDE and x.device.type == DEVICE.type for x in made):
            self.faults[f"{func} makes float64"] += 1
        after = {x.device.type for x in made}
        if before == {"cpu"} and DEVICE.type in after:
            self.uploads += 1
        elif DEVICE.type in before and "cpu" in after:
            self.faults[f"{func} moves to the host"] += 1
        return output


def on_fake_device(model: Model, mode: FakeTensorMode) -> Model:
    """The model with weights that have no values."""
    network = _faked(model.network, mode)
    if network.architecture.tied_head:
        network.head.weight = network.embed.weight
    return replace(model, network=network, device=DEVICE)


def _faked(module: Any, mode: FakeTensorMode) -> Any:
    with unset_fake_temporarily():
        module = copy.deepcopy(module)
    with mode:
        for part in module.modules():
            for store in (part._parameters, part._buffers):
                for name, value in store.items():
                    if value is not None:
                        empty = torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
                        kept = isinstance(value, nn.Parameter)
                        store[name] = nn.Parameter(empty, requires_grad=False) if kept else empty
    return module


def run(model: Model, requests: Sequence[Request], static: bool | None, no_float64: bool = False) -> Watch:
    """Decode on the fake device; what is read back is made up: of each row's block the leftmost masks.

    no_float64  the device is one of those that have none, as a Mac's
    """
    mode, watch, copies = FakeTensorMode(allow_non_fake_inputs=True), Watch(no_float64), list[Tensor]()

    def copied(cache: KeyValues, places: Tensor, copy: Any = KeyValues.copy) -> None:
        copies.append(places)
        copy(cache, places)

    faked = on_fake_device(model, mode)
    with mode, _policies_too(mode), pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmask.engine.engine.read", _reveal_some)
        patch.setattr(Tensor, "pin_memory", _pinned)
        patch.setattr(KeyValues, "copy", copied)
        patch.setattr("unmask.schedulers.base.NO_FLOAT64", (DEVICE.type,) if no_float64 else ())
        patch.setattr("unmask.engine.room.available_bytes", lambda device: 1 << 30)
        engine = Engine(faked, max_rows=16, static=static)
        for request in requests:
            engine.submit(request)
        steps = 0
        with watch:
            while engine.running or engine.waiting:
                engine.step()
                steps += 1
        if watch.uploads != steps + len(copies):  # keys that are kept and found need one each: where they are
            watch.faults[f"{watch.uploads} uploads in {steps} steps and {len(copies)} copies"] += 1
    return watch


def _pinned(values: Tensor) -> Tensor:
    raise AssertionError("memory is pinned for a device that is not CUDA's")


def _reveal_some(decided: Decided, canvases: Sequence[Canvas]) -> list[tuple[tuple[Reveal, ...], tuple[int, ...]]]:
    top_logprobs = max(canvas.request.top_logprobs for canvas in canvases)
    assert {leaf.device.type for leaf in leaves(decided)} == {DEVICE.type}
    assert {leaf.shape[0] for leaf in leaves(decided)} == {len(canvases)}
    assert pack(decided).device.type == DEVICE.type
    best = decided.proposed.top_ids
    assert best.shape[2] == top_logprobs if best is not None else not top_logprobs
    outcome: list[tuple[tuple[Reveal, ...], tuple[int, ...]]] = []
    for canvas in canvases:
        masks = [p for p in range(canvas.block_start, canvas.block_end) if canvas.masked[canvas.column(p)]]
        chosen = masks if canvas.last_pass else masks[: max(1, len(masks) // 2)]
        outcome.append((tuple(Reveal(position, 5, 0.5, canvas.step) for position in chosen), ()))
    return outcome


@contextmanager
def _policies_too(mode: FakeTensorMode) -> Iterator[None]:
    """Policies keep a network a device; on this one it has no values either."""

    def network_on(self: LearnedPolicy, device: torch.device) -> Any:
        return _faked(self._policy.network, mode)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LearnedPolicy, "_network_on", network_on)
        yield
