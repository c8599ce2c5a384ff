"""A mixture of experts: each token goes through a few of many feed-forwards (Shazeer et al., arXiv 1701.06538)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.models.architecture import BlockExperts, Experts, Groups
from unmask.models.layers import FeedForward, kept
from unmask.models.lora import Additions
from unmask.models.quantization import Pack, levels_and_scale

TINY = 1e-20  # keeps a sum of scores that all round to zero from dividing zero by zero; the published routers' constant


class Router(nn.Module):
    """Chooses experts and weighs them, in float32 whatever the model's dtype, since rounding would change the choice.

    Softmax scores, or sigmoid scores with a bias that takes part in the choice and not in the weights (DeepSeek-V3,
    arXiv 2412.19437, equation 16). Weights are made to sum to 1, or to the scale of the groups, or, in LLaDA-MoE, are
    the scores as they are.
    """

    bias: Tensor

    def __init__(self, hidden_size: int, experts: Experts):
        super().__init__()
        self.chosen, self.groups, self.sums_to_one = experts.chosen, experts.groups, experts.sums_to_one
        self.weight = nn.Parameter(torch.empty(experts.count, hidden_size))
        if experts.groups is not None:
            self.register_buffer("bias", torch.zeros(experts.count))  # no parameter: the model's dtype is not for it

    def forward(self, h: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """h (T, hidden_size) -> weights (T, chosen) float32, experts (T, chosen) long.

        positions  (T,) long, needed where experts are chosen for a block: h then holds each block whole
        """
        logits = F.linear(h.float(), self.weight.float())  # (T, E)
        if self.groups is None:
            scores = choice = logits.softmax(-1)
        else:
            scores = logits.sigmoid()
            choice = self._open(scores + self.bias, positions)
        experts = choice.topk(self.chosen).indices
        weights = scores.gather(1, experts)
        if self.sums_to_one:
            weights = weights / (weights.sum(1, keepdim=True) + TINY)
        return weights if self.groups is None else weights * self.groups.scale, experts

    def _open(self, choice: Tensor, positions: Tensor | None) -> Tensor:
        """choice (T, E) with -inf for the experts that are not open to the token."""
        if isinstance(self.groups, BlockExperts):
            assert positions is not None
            return _open_to_blocks(choice, positions, self.groups)
        assert self.groups is not None
        return _open_groups(choice, self.groups)


class MixtureOfExperts(nn.Module):
    """SwiGLU experts, and one more that every token goes through if there are shared ones.

    gate_up  (E, 2 ffn_size, hidden_size), gate first
    down     (E, hidden_size, ffn_size)
    """

    def __init__(self, hidden_size: int, experts: Experts):
        super().__init__()
        self.router = Router(hidden_size, experts)
        self.gate_up = nn.Parameter(torch.empty(experts.count, 2 * experts.ffn_size, hidden_size))
        self.down = nn.Parameter(torch.empty(experts.count, hidden_size, experts.ffn_size))
        self.additions: dict[str, Additions] = {}
        self.shared = FeedForward(hidden_size, experts.shared_size) if experts.shared_size else None
        self._grouped_mm: Callable[..., Tensor] = F.grouped_mm

    def forward(self, h: Tensor, positions: Tensor | None = None) -> Tensor:
        """h (T, hidden_size) -> (T, hidden_size). Every shape follows from T, however the tokens are shared out.

        positions  (T,) long, see `Router`
        """
        weights, experts = self.router(h, positions)
        chosen, order = experts.flatten().sort(stable=True)  # (T k,), tokens of one expert together
        every = torch.arange(len(self.down), device=h.device)
        ends = torch.searchsorted(chosen, every, right=True, out_int32=True)  # (E,), where each expert's tokens end
        gate, up = self._grouped(h[order // experts.shape[1]], self.gate_up, chosen, ends).chunk(2, dim=-1)
        out = self._grouped(F.silu(gate) * up, self.down, chosen, ends)
        out = out[order.argsort()].unflatten(0, experts.shape)  # (T, k, hidden_size)
        mixed = (out.float() * weights[..., None]).sum(1).to(h.dtype)
        return mixed if self.shared is None else mixed + self.shared(h)

    def _grouped(self, x: Tensor, weights: Tensor, expert: Tensor, ends: Tensor) -> Tensor:
        """Each expert's rows of x (T, in) times its own of the weights (E, out, in): (T, out).

        expert (T,) is that of each row, sorted; ends (E,), where the rows of each end. The host does not wait for the
        device on a CPU, nor in bfloat16 on Hopper and Blackwell. Elsewhere PyTorch's own fallback reads `ends` on the
        host.
        """
        grouped_mm = F.grouped_mm if x.dtype == torch.bfloat16 else self._grouped_mm
        levels, scale = levels_and_scale(weights)
        out = grouped_mm(x, levels.to(x.dtype).transpose(1, 2), offs=ends)
        return out if scale is None else (out * scale.squeeze(-1)[expert]).to(x.dtype)

    def stay_uncompiled(self) -> None:
        """Keep torch.compile from grouped products in the dtypes in which it refuses them: all but bfloat16."""
        self._grouped_mm = torch.compiler.disable(F.grouped_mm)

    def fuse(self, pack: Pack | None) -> None:
        """Pack the experts, whose gate and up are one already, and make one matrix of those of the shared ones."""
        self.gate_up, self.down = kept(self.gate_up, pack), kept(self.down, pack)
        if self.shared is not None:
            self.shared.fuse(pack)


def _open_groups(choice: Tensor, groups: Groups) -> Tensor:
    """choice (T, E) with -inf outside the best groups; a group is as good as its two best experts together."""
    grouped = choice.unflatten(1, (groups.count, -1))  # (T, G, E / G)
    best = grouped.topk(2).values.sum(-1).topk(groups.kept).indices
    closed = torch.ones(grouped.shape[:2], dtype=torch.bool, device=choice.device).scatter(1, best, False)
    return grouped.masked_fill(closed[..., None], -torch.inf).flatten(1)


def _open_to_blocks(choice: Tensor, positions: Tensor, blocks: BlockExperts) -> Tensor:
    """choice (T, E) with -inf outside the best experts of each block. Rows are whole blocks, one row after another."""
    begins = positions % blocks.block_size == 0
    block = begins.cumsum(0) - begins[0].long()  # (T,), counted through all rows
    lines = torch.full_like(choice, -torch.inf)  # one a block; the rest stays empty
    best = lines.scatter_reduce(0, block[:, None].expand_as(choice), choice, "amax")
    kept = best.topk(blocks.kept).indices
    closed = torch.ones_like(choice, dtype=torch.bool).scatter(1, kept, False)
    return choice.masked_fill(closed[block], -torch.inf)
