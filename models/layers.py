"""Layers that all networks share."""

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.models.lora import Additions, Groups
from unmask.models.quantization import Pack


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times a weight (arXiv 1910.07467)."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class FeedForward(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, ffn_size: int):
        super().__init__()
        self.gate = nn.Linear(hidden_size, ffn_size, bias=False)
        self.up = nn.Linear(hidden_size, ffn_size, bias=False)
        self.down = nn.Linear(ffn_size, hidden_size, bias=False)
        self.gate_up: nn.Linear | None = None
        self.additions = {leaf: Additions() for leaf in ("gate", "up", "down")}

    def forward(self, h: Tensor, groups: Groups = ()) -> Tensor:
        """h (n, hidden_size) -> (n, hidden_size); `groups` says which tokens are of which adapter."""
        gate, up = (self.gate(h), self.up(h)) if self.gate_up is None else self.gate_up(h).chunk(2, dim=-1)
        if not groups:
            return self.down(F.silu(gate) * up)
        gate, up = self.additions["gate"].add(gate, h, groups), self.additions["up"].add(up, h, groups)
        middle = F.silu(gate) * up
        return self.additions["down"].add(self.down(middle), middle, groups)

    def fuse(self, pack: Pack | None) -> None:
        """Make one matrix of gate and up, which go on as views of it, and pack all; for inference."""
        self.gate_up = fused(self.gate, self.up, pack=pack)
        self.down.weight = kept(self.down.weight, pack)


def kept(weight: Tensor, pack: Pack | None) -> nn.Parameter:
    """A weight for inference, packed if there is something to pack it."""
    return nn.Parameter(weight if pack is None else pack(weight), requires_grad=False)


def fused(*parts: nn.Linear, pack: Pack | None) -> nn.Linear | None:
    """One linear layer that holds the weights of several; they become views of it. None where packed matrices cannot be
    joined: then each is packed by itself."""
    if pack is not None and not pack.joins:
        for part in parts:
            part.weight = kept(part.weight, pack)
        return None
    whole = nn.Linear(1, 1, bias=False)
    whole.weight = kept(torch.cat([part.weight for part in parts]), pack)
    if parts[0].bias is not None:
        whole.bias = kept(torch.cat([part.bias for part in parts]), None)
    stops = list(accumulate(part.out_features for part in parts))
    for part, start, stop in zip(parts, [0, *stops], stops, strict=False):
        part.weight = kept(whole.weight[start:stop], None)
        if whole.bias is not None:
            part.bias = kept(whole.bias[start:stop], None)
    return whole
