"""The one network behind every family: a Llama-like transformer that attends in both directions.

LLaDA, Dream and their relatives differ in widths, biases and names, not in structure (reference papers: LLaDA, arXiv
2502.09992; Dream, arXiv 2508.15487). What differs is data in an `Architecture`; a family file fills one in.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """The shape of one network. `shift` says that raw logits at position i predict token i + 1 (Dream)."""

    vocab_rows: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn_width: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    qkv_bias: bool = False
    tied_head: bool = False
    rope_float32: bool = False
    shift: bool = False


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back, times a weight."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        normed = x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)


class Rotation:
    """Rotary position embedding, half-split: dimension j is paired with j + head_dim / 2 (arXiv 2104.09864)."""

    def __init__(self, architecture: Architecture, positions: Tensor, dtype: torch.dtype):
        half = architecture.head_dim // 2
        exponent = torch.arange(half, device=positions.device, dtype=torch.float32) / half
        angles = positions[..., None].float() * architecture.rope_theta**-exponent  # (B, T, half)
        # LLaDA rotates in float32; the Qwen-style families rotate in the model's own dtype.
        self.dtype = torch.float32 if architecture.rope_float32 else dtype
        self.cos = angles.cos().to(self.dtype).unsqueeze(1)  # (B, 1, T, half)
        self.sin = angles.sin().to(self.dtype).unsqueeze(1)

    def __call__(self, x: Tensor) -> Tensor:  # (B, heads, T, head_dim)
        first, second = x.to(self.dtype).chunk(2, dim=-1)
        rotated = (first * self.cos - second * self.sin, second * self.cos + first * self.sin)
        return torch.cat(rotated, dim=-1).to(x.dtype)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, a: Architecture):
        super().__init__()
        self.head_dim = a.head_dim
        self.grouped = a.kv_heads != a.heads
        self.attn_norm = RMSNorm(a.width, a.norm_eps)
        self.q = nn.Linear(a.width, a.heads * a.head_dim, bias=a.qkv_bias)
        self.k = nn.Linear(a.width, a.kv_heads * a.head_dim, bias=a.qkv_bias)
        self.v = nn.Linear(a.width, a.kv_heads * a.head_dim, bias=a.qkv_bias)
        self.o = nn.Linear(a.heads * a.head_dim, a.width, bias=False)
        self.ffn_norm = RMSNorm(a.width, a.norm_eps)
        self.gate = nn.Linear(a.width, a.ffn_width, bias=False)
        self.up = nn.Linear(a.width, a.ffn_width, bias=False)
        self.down = nn.Linear(a.ffn_width, a.width, bias=False)

    def forward(self, x: Tensor, rotate: Rotation, key_mask: Tensor | None) -> Tensor:  # (B, T, width)
        x = x + self._attend(self.attn_norm(x), rotate, key_mask)
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def _attend(self, h: Tensor, rotate: Rotation, key_mask: Tensor | None) -> Tensor:
        q, k, v = (self._heads(project(h)) for project in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(rotate(q), rotate(k), v, attn_mask=key_mask, enable_gqa=self.grouped)
        return self.o(attended.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:  # (B, T, heads * head_dim) -> (B, heads, T, head_dim)
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MaskedTransformer(nn.Module):
    """Predicts the token at every position from the tokens on both sides of it."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        a = self.architecture = architecture
        self.embed = nn.Embedding(a.vocab_rows, a.width)
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.layers))
        self.norm = RMSNorm(a.width, a.norm_eps)
        self.head = nn.Linear(a.width, a.vocab_rows, bias=False)
        if a.tied_head:
            self.head.weight = self.embed.weight

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        key_mask: Tensor | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, W, vocab_rows): entry [:, i] predicts the token at the i-th wanted position.

        tokens    (B, T) token ids, masks included
        positions (B, T) where each token stands; by default 0 .. T-1
        key_mask  (B, T) bool, false where a token is padding that no other may attend to; by default all true
        wanted    (B, W) columns of `tokens` to predict; by default all of them
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self.embed(tokens)
        rotate = Rotation(self.architecture, positions, x.dtype)
        attention_mask = None if key_mask is None else key_mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, rotate, attention_mask)
        return self.head(self.norm(self._predictors(x, wanted)))

    def _predictors(self, x: Tensor, wanted: Tensor | None) -> Tensor:
        """The hidden states (B, W, width) from which the wanted positions are predicted."""
        if wanted is None:
            if not self.architecture.shift:
                return x
            wanted = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        if self.architecture.shift:
            wanted = (wanted - 1).clamp(min=0)  # position 0 has no left neighbour and is always prompt
        return x.gather(1, wanted[..., None].expand(-1, -1, x.shape[-1]))
