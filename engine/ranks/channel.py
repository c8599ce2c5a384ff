"""How ranks meet, and how rank 0 speaks to the others. All of them are processes of one user on one machine."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from unmask.engine.transfer import leaves, mapped, pack, unpack
from unmask.models.devices import choose_device, make_current

IDLE = timedelta(days=3650)  # that a rank may wait to be told something: a server may have no request for long
HOST = torch.device("cpu")


def meeting(file: Path, size: int) -> Any:
    """Where so many ranks meet: a store in a file."""
    return dist.FileStore(str(file), size)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Channel:
    """What messages go through: their heads through a group of the host, their tensors through the device's."""

    heads: dist.ProcessGroup
    device: torch.device

    @staticmethod
    def join(rank: int, size: int, kind: str, local: int, store: Any = None) -> "Channel":
        """Meet the other ranks, by a store or as torchrun's environment says; returns when all are there.

        kind   of device, cpu or cuda
        local  the number of the card, if it is a card
        """
        device = choose_device(f"cuda:{local}" if kind == "cuda" else kind)
        make_current(device)
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        return Channel(dist.new_group(backend="gloo", timeout=IDLE), device)

    def send(self, what: str, how: tuple[Any, ...]) -> None:
        """Tell the other ranks what to do, and how: numbers, texts, and trees of tensors on the device."""
        head = [(what, mapped(how, lambda leaf: torch.empty_like(leaf, device="meta")))]
        dist.broadcast_object_list(head, src=0, group=self.heads, device=HOST)
        if leaves(how):
            dist.broadcast(pack(how), src=0)

    def receive(self) -> tuple[str, tuple[Any, ...]]:
        """Wait for what rank 0 tells."""
        head: list[Any] = [None]
        dist.broadcast_object_list(head, src=0, group=self.heads, device=HOST)
        what, like = head[0]
        if not (tensors := leaves(like)):
            return what, like
        packed = torch.empty(sum(leaf.nbytes for leaf in tensors), dtype=torch.uint8, device=self.device)
        dist.broadcast(packed, src=0)
        return what, unpack(packed, like)

    def meet(self) -> None:
        """Wait for all ranks, however long they take."""
        dist.barrier(self.heads)
