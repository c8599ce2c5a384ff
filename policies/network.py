"""The policy network of "Learning Unmasking Policies for Diffusion Language Models" (arXiv 2512.09106, section 4).

One transformer block over the positions that the policy sees, conditioned on masks and time as in DiT (arXiv
2212.09748). Modules are named as in the checkpoints of the authors' code, so that each code loads the other's
checkpoints. Peculiarities that weights depend on are kept, and marked "as published".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPEED_KNOTS = 11  # evenly spaced speeds from 0 to 1; an any-speed policy has a shift of its logits for each
KEEP = 5.0  # logit of what is revealed, before training


@dataclass(frozen=True)
class PolicyShape:
    """What decides the tensors of a policy. The defaults are the paper's, of 331,265 parameters.

    top_k       how many of the highest probabilities of each position the policy sees
    speed       whether the wanted speed is an input, which shifts all logits equally; not in the paper
    remask      whether it also says which revealed tokens it wants kept, which the paper's does not; the others are
                taken back or written over
    vocabulary  how many token ids it tells apart, those beyond falling together with others; 0, as in the paper, if it
                reads no tokens
    positions   whether it knows where in the answer each position is, which the paper's does not; one that reads
                tokens always does
    stops       whether it knows which proposals are an end of text, which the paper's does not
    hidden      width of the model whose last hidden states it reads; 0, as in the paper, if it reads none
    """

    hidden_size: int = 128
    heads: int = 2
    ffn_size: int = 512
    blocks: int = 1
    top_k: int = 1
    speed: bool = False
    remask: bool = False
    vocabulary: int = 0
    positions: bool = False
    stops: bool = False
    hidden: int = 0


class PolicyNetwork(nn.Module):
    """One logit for each position: how much the policy wants it revealed now, or kept if it is revealed already."""

    def __init__(self, shape: PolicyShape):
        super().__init__()
        self.shape = shape
        self.time_mlp = _perceptron(shape.hidden_size, shape.hidden_size)
        self.confidence_proj = nn.Linear(shape.top_k, shape.hidden_size)
        self.mask_embedding = nn.Embedding(2, shape.hidden_size)
        self.speed_shifts: Tensor | None
        self.register_buffer("speed_shifts", torch.zeros(SPEED_KNOTS) if shape.speed else None)
        self.token_embedding = nn.Embedding(shape.vocabulary, shape.hidden_size) if shape.vocabulary else None
        placed = shape.vocabulary or shape.positions
        self.position_proj = nn.Linear(shape.hidden_size, shape.hidden_size) if placed else None
        self.stop_embedding = nn.Embedding(2, shape.hidden_size) if shape.stops else None
        self.hidden_proj = nn.Linear(shape.hidden, shape.hidden_size) if shape.hidden else None
        self.transformer_blocks = nn.ModuleList(PolicyBlock(shape) for _ in range(shape.blocks))
        self.final_norm = nn.LayerNorm(shape.hidden_size)
        self.output_proj = nn.Linear(shape.hidden_size, 1)
        self.keep_proj = nn.Linear(shape.hidden_size, 1) if shape.remask else None

    def start_at(self, logit: float) -> None:
        """Make all logits about this one before training, whatever the input: the paper's "smart init", at -2.

        What is revealed is kept at first. A network that reads tokens hears of confidence only as it learns to: at
        once, numbers of that size would drown what it knows of tokens.
        """
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if "ada_conditioning" in name:
                    parameter.zero_()
            self.output_proj.bias.fill_(logit)
            if self.token_embedding is not None:
                self.confidence_proj.weight.zero_()
            if self.keep_proj is not None:
                self.keep_proj.bias.fill_(KEEP)

    def forward(
        self,
        mask: Tensor,
        confidence: Tensor,
        time: Tensor,
        speed: Tensor,
        seen: Tensor,
        tokens: Tensor | None = None,
        positions: Tensor | None = None,
        stops: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, W).

        mask        (B, W) bool  positions that are masks
        confidence  (B, W, K)    the highest probabilities at each position, revealed ones too
        time        (B,)         forward passes so far, divided by the length of the generation region
        speed       (B,)         that is wanted, from 0 to 1
        seen        (B, W) bool  positions that there are; the others are padding
        tokens      (B, W) long  what stands at each position or is proposed for it
        positions   (B, W) long  where that is
        stops       (B, W) bool  masks whose proposal is an end of text
        hidden      (B, W, H)    the model's last hidden states

        What the shape does not have is not looked at.
        """
        x = self.confidence_proj(confidence)
        if self.token_embedding is not None:
            assert tokens is not None
            x = x + self.token_embedding(tokens % self.shape.vocabulary)
        if self.stop_embedding is not None:
            assert stops is not None
            x = x + self.stop_embedding(stops.long())
        if self.position_proj is not None:
            assert positions is not None
            x = x + self.position_proj(_position_embedding(positions, self.shape.hidden_size).to(x.dtype))
        if self.hidden_proj is not None:
            assert hidden is not None
            x = x + self.hidden_proj(hidden.to(x.dtype))
        conditioning = self.time_mlp(_time_embedding(time, self.shape.hidden_size).to(x.dtype))
        condition = self.mask_embedding(mask.long()) + conditioning[:, None]
        for block in self.transformer_blocks:
            x = block(x, condition, seen)
        x = self.final_norm(x)
        logits = self.output_proj(x).squeeze(-1)
        if self.speed_shifts is not None:
            logits = logits + _between(self.speed_shifts, speed)[:, None]
        return logits if self.keep_proj is None else torch.where(mask, logits, self.keep_proj(x).squeeze(-1))


class PolicyBlock(nn.Module):
    """A DiT block whose conditioning differs from position to position, and whose gates are 1 + a, not a."""

    def __init__(self, shape: PolicyShape):
        super().__init__()
        hidden_size = shape.hidden_size
        self.heads = shape.heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        half = torch.arange(0, hidden_size // shape.heads, 2).float() / (hidden_size // shape.heads)
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", 10000**-half)
        self.linear1 = nn.Linear(hidden_size, shape.ffn_size)
        self.linear2 = nn.Linear(shape.ffn_size, hidden_size)
        self.ada_conditioning = nn.Linear(hidden_size, 6 * hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor, condition: Tensor, seen: Tensor) -> Tensor:
        """x, condition (B, W, hidden_size), seen (B, W) bool -> (B, W, hidden_size)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.ada_conditioning(condition).chunk(6, dim=-1)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + self.out_proj(self._attend(h, seen)) * (1 + gate1)
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + self.linear2(F.gelu(self.linear1(h))) * (1 + gate2)

    def _attend(self, h: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (
            project(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )  # (B, heads, W, head_dim)
        angles = torch.arange(h.shape[1], device=h.device)[:, None] * self.inv_freq
        q, k = _rotate(q, angles), _rotate(k, angles)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        return attended.transpose(1, 2).flatten(2)


def _perceptron(inputs: int, hidden_size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))


def _between(values: Tensor, where: Tensor) -> Tensor:
    """Values (N,) at evenly spaced places from 0 to 1, interpolated at `where` (B,) -> (B,)."""
    place = where.clamp(0, 1) * (len(values) - 1)
    left = place.long().clamp(max=len(values) - 2)
    return torch.lerp(values[left], values[left + 1], (place - left).to(values.dtype))


def _time_embedding(time: Tensor, hidden_size: int) -> Tensor:
    """(B,) -> (B, hidden_size). As published: the period is 1, so that all frequencies are equal, and in bfloat16."""
    angle = time.float()[:, None].expand(-1, hidden_size // 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1).bfloat16()


def _position_embedding(positions: Tensor, hidden_size: int) -> Tensor:
    """(B, W) -> (B, W, hidden_size): sinusoids of where each position is in the generation region."""
    frequencies = 10000 ** -(torch.arange(hidden_size // 2, device=positions.device).float() / (hidden_size // 2))
    angle = positions[..., None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x (B, heads, W, head_dim), angles (W, head_dim / 2). As published: pairs lie side by side, their halves apart."""
    cos, sin = angles.cos(), angles.sin()
    first, second = x[..., ::2], x[..., 1::2]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)
