"""Recording what a device does, to repeat it without the host: as a CUDA graph, or as a list of operators elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Work = Callable[[], Tensor]
Replay = Callable[[], None]
Record = Callable[[Work], tuple[Tensor, Replay]]

# Operators that wait for the device: a graph cannot hold them.
HOST_READS = ("_local_scalar_dense", "is_nonzero", "item", "nonzero", "masked_select", "equal", "unique", "_unique2")


class CUDARecorder:
    """Captures work as CUDA graphs that share their memory."""

    def __init__(self, device: torch.device):
        self._device = torch.cuda.current_device() if device.index is None else device.index
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> tuple[Tensor, Replay]:
        """(what the work returns, a function that repeats it into the same memory). Raises what the capture raises; the
        device is then as it was."""
        with torch.cuda.device(self._device):  # streams are the current card's
            graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
            try:
                with torch.cuda.graph(graph, pool=self._pool):
                    output = work()
            except BaseException:
                self._clean_up(stream)
                raise
            graph.replay()  # capturing does not execute
        return output, graph.replay

    def _clean_up(self, stream: torch.cuda.Stream) -> None:
        """After a failed capture. Where its end fails, too, torch 2.13 stays on the stream of the capture, and its
        allocator goes on recording to the pool: it would fail at the next capture, or when it runs short of memory."""
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError):  # where the capture has ended in order, nothing is recorded any more
            torch._C._cuda_endAllocateToPool(self._device, self._pool)
        self._pool = torch.cuda.graph_pool_handle()


class TapeRecorder:
    """CUDARecorder for other devices: keeps every operator with its operands, and runs them again.

    A replay runs no line of Python but those operators, into the memory of the first time: what Python decided then
    stays as it was, as in a captured graph. Host reads are refused, as CUDA does.
    """

    def __call__(self, work: Work) -> tuple[Tensor, Replay]:
        """Like CUDARecorder."""
        tape = _Tape()
        with torch.compiler.set_stance("force_eager"), tape:  # what compiled kernels do is not seen
            output = work()
        return output, tape.play


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operators: list[tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if reads_host(func, args):
            raise RuntimeError(f"{func} waits for the device, which a captured graph may not")
        output = func(*args, **(kwargs or {}))
        self._operators.append((func, args, kwargs or {}, output))
        return output

    @torch.inference_mode()
    def play(self) -> None:
        for func, args, kwargs, output in self._operators:
            again = tree_leaves(func(*args, **kwargs))
            for old, new in zip(tree_leaves(output), again, strict=True):
                if isinstance(old, Tensor) and not torch._C._is_alias_of(old, new):  # type: ignore[attr-defined]
                    old.copy_(new)


def reads_host(func: Any, args: Sequence[Any]) -> bool:
    """Whether an operator waits for the device: by its name, or as an index of bool, whose size depends on values."""
    name = func.overloadpacket.__name__
    if name in ("index", "index_put", "index_put_"):
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return name in HOST_READS
