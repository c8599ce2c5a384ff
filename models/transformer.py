"""The one network of all families: a Llama-like transformer that attends in both directions, everywhere, in blocks, or
in the current block alone.

LLaDA, Dream and their relatives differ in widths, biases, norms, experts and names (reference papers: LLaDA, arXiv
2502.09992; Dream, arXiv 2508.15487). What differs is data in an `Architecture`; a family file fills one in.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.models.architecture import Architecture, BlockExperts, LongContext
from unmask.models.cache import KeyValues
from unmask.models.experts import MixtureOfExperts
from unmask.models.layers import FeedForward, RMSNorm, fused, kept
from unmask.models.lora import Additions
from unmask.models.packing import Given, PackedBatch
from unmask.models.quantization import Pack
from unmask.models.split import ALONE, Split
from unmask.models.whole import whole_rows


class Rotation:
    """Rotary position embedding of a head's first R dimensions, j paired with j + R / 2 (arXiv 2104.09864).

    R is all of them except in LLaDA2, where the other dimensions stay as they are.
    """

    def __init__(self, a: Architecture, positions: Tensor, dtype: torch.dtype):
        half = (a.rotary_dim or a.head_dim) // 2
        self.parts = [half, half, a.head_dim - 2 * half]
        exponent = torch.arange(half, device=positions.device, dtype=torch.float32) / half
        long = a.long_context
        frequencies = a.rope_theta**-exponent if long is None else _slowed(a.rope_theta**exponent, long, a.rope_theta)
        angles = positions[:, None].float() * frequencies  # (N, half)
        # LLaDA rotates in float32; the Qwen-style families rotate in the model's own dtype.
        self.dtype = torch.float32 if a.rope_float32 else dtype
        self.cos = angles.cos().to(self.dtype).unsqueeze(1)  # (N, 1, half)
        self.sin = angles.sin().to(self.dtype).unsqueeze(1)
        self.query_scale = None if long is None else _query_scale(positions, long)  # (N, 1, 1)

    def queries(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """Rotate queries as `__call__` does, and scale them where the network does."""
        rotated = self(x, only)
        if self.query_scale is None:
            return rotated
        return rotated * (self.query_scale if only is None else self.query_scale[only]).to(x.dtype)

    def __call__(self, x: Tensor, only: Tensor | None = None) -> Tensor:
        """Rotate x (N, heads, head_dim), or (M, heads, head_dim) of the tokens `only` (M,)."""
        cos, sin = (self.cos, self.sin) if only is None else (self.cos[only], self.sin[only])
        first, second, rest = x.to(self.dtype).split(self.parts, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1).to(x.dtype)


def _slowed(wavelengths: Tensor, long: LongContext, theta: float) -> Tensor:
    """How fast pairs of dimensions turn, (half,), from their wavelengths over 2 pi, slowed as YaRN does (arXiv
    2309.00071, section 3.2).

    Pair i has r turns over the positions where i = half ln(positions / (2 pi r)) / ln theta. Between the pairs of
    `fast` and of `slow` turns, rounded outwards, the share that is slowed grows linearly.
    """
    half = len(wavelengths)

    def pair(turns: float) -> float:
        return half * math.log(long.positions / (2 * math.pi * turns)) / math.log(theta)

    first, last = max(math.floor(pair(long.fast)), 0), min(math.ceil(pair(long.slow)), 2 * half - 1)
    index = torch.arange(half, device=wavelengths.device, dtype=torch.float32)
    share = ((index - first) / max(last - first, 0.001)).clamp(0, 1)
    return share / (long.factor * wavelengths) + (1 - share) / wavelengths


def _query_scale(positions: Tensor, long: LongContext) -> Tensor:
    return (1 + long.query_beta * torch.log(1 + positions // long.positions)).view(-1, 1, 1)


class Attention(nn.Module):
    """Grouped-query attention of packed tokens to the keys that each row may see."""

    def __init__(self, a: Architecture, layer: int):
        super().__init__()
        self.layer = layer
        self.head_dim = a.head_dim
        self.grouped = a.kv_heads != a.heads
        self.q = nn.Linear(a.hidden_size, a.heads * a.head_dim, bias=a.qkv_bias)
        self.k = nn.Linear(a.hidden_size, a.kv_heads * a.head_dim, bias=a.qkv_bias)
        self.v = nn.Linear(a.hidden_size, a.kv_heads * a.head_dim, bias=a.qkv_bias)
        self.o = nn.Linear(a.heads * a.head_dim, a.hidden_size, bias=False)
        self.q_norm = RMSNorm(a.head_dim, a.norm_eps) if a.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(a.head_dim, a.norm_eps) if a.qk_norm else nn.Identity()
        self.qkv: nn.Linear | None = None
        self.additions = {leaf: Additions() for leaf in "qkvo"}

    def forward(self, h: Tensor, rotate: Rotation, batch: PackedBatch, cache: KeyValues | None, last: bool) -> Tensor:
        """h (N, D) -> (N, D); in the last layer (M, D), of the wanted tokens alone."""
        only = batch.wanted if last else None
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in self._projected(h, only, batch))
        q, k = rotate.queries(self.q_norm(q), only), rotate(self.k_norm(k))
        if cache is not None and batch.write_from is not None and batch.slot_mapping is not None:
            cache.write(self.layer, batch.slot_mapping, k[batch.write_from], v[batch.write_from])
        queries = batch.wanted_tokens if last else batch.all_tokens
        outputs = []
        for i, group in enumerate(queries.groups):
            if group.cached:
                assert cache is not None
                keys, values = cache.read(self.layer, group.rows, group.keys)
            else:
                keys, values = batch.all_tokens.rows(k, i), batch.all_tokens.rows(v, i)
            outputs.append(self._attend(queries.rows(q, i), keys, values, queries.masks[i]).flatten(0, 1))
        attended = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
        attended = (attended if queries.order is None else attended[queries.order]).flatten(1)
        return self.additions["o"].add(self.o(attended), attended, batch.groups(last))

    def _projected(self, h: Tensor, only: Tensor | None, batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, with what adapters add."""
        q, k, v = self._project(h, only)
        if not batch.adapted:
            return q, k, v
        groups, add = batch.groups(wanted=False), self.additions
        q = add["q"].add(q, h if only is None else h[only], batch.groups(wanted=only is not None))
        return q, add["k"].add(k, h, groups), add["v"].add(v, h, groups)

    def _project(self, h: Tensor, only: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if only is not None or self.qkv is None:
            return self.q(h if only is None else h[only]), self.k(h), self.v(h)
        q, k, v = self.qkv(h).split([x.out_features for x in (self.q, self.k, self.v)], dim=-1)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:  # all (B, S, heads, head_dim)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if q.requires_grad and q.device.type == "cpu" and mask is None and not self.grouped:
            # Backwards the formula takes a half to an eighth of the time of torch's kernel for processors.
            return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype).matmul(v).transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=self.grouped).transpose(1, 2)

    def fuse(self, pack: Pack | None) -> None:
        """Make one matrix of the three projections, which go on as views of it, and pack all; for inference."""
        self.qkv = fused(self.q, self.k, self.v, pack=pack)
        self.o.weight = kept(self.o.weight, pack)


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, a: Architecture, layer: int, split: Split = ALONE):
        super().__init__()
        self.split = split
        self.attn_norm = RMSNorm(a.hidden_size, a.norm_eps)
        self.attention = Attention(a, layer)
        self.ffn_norm = RMSNorm(a.hidden_size, a.norm_eps)
        self.ffn: FeedForward | MixtureOfExperts
        if a.experts is None or layer < a.experts.first_layer:
            self.ffn = FeedForward(a.hidden_size, a.ffn_size)
        else:
            self.ffn = MixtureOfExperts(a.hidden_size, a.experts)

    def forward(self, x: Tensor, rotate: Rotation, batch: PackedBatch, cache: KeyValues | None, last: bool) -> Tensor:
        attended = self.split.summed(self.attention(self.attn_norm(x), rotate, batch, cache, last))
        x = (x[batch.wanted] if last else x) + attended
        h = self.ffn_norm(x)
        if isinstance(self.ffn, FeedForward):
            return x + self.split.summed(self.ffn(h, batch.groups(last)))
        return x + self.split.summed(self.ffn(h, batch.positions))  # adapters of experts can only be merged

    def fuse(self, pack: Pack | None) -> None:
        """Join projections that read the same input, and pack the matrices; for inference."""
        self.attention.fuse(pack)
        self.ffn.fuse(pack)


class MaskedTransformer(nn.Module):
    """Predicts the token at every position from the tokens on both sides of it.

    architecture  of what this process has, see `Split.share`
    split         over several ranks: all of them must be called alike, and `head` gives one rank's part of the logits
    """

    def __init__(self, architecture: Architecture, split: Split = ALONE):
        super().__init__()
        a, self.split = architecture, split
        self.architecture = a
        # Nothing is drawn: on the meta device that would import the compiler.
        self.embed = nn.Embedding.from_pretrained(torch.empty(a.vocab_rows // split.size, a.hidden_size), freeze=False)
        self.blocks = nn.ModuleList(Block(a, layer, split) for layer in range(a.layers))
        # Experts that are chosen for a block are chosen by all of its tokens, wanted or not.
        self._by_block = a.experts is not None and isinstance(a.experts.groups, BlockExperts)
        self.norm = RMSNorm(a.hidden_size, a.norm_eps)
        self.head = nn.Linear(a.hidden_size, a.vocab_rows // split.size, bias=False)
        if a.tied_head:
            self.head.weight = self.embed.weight

    def forward(self, batch: PackedBatch, cache: KeyValues | None = None) -> Tensor:
        """Hidden states (M, D) of the wanted tokens of one pass; `head` makes logits of them.

        cache  holds the keys and values that the pass does not compute, and takes those that it keeps
        """
        x = self.split.embedded(self.embed, batch.tokens)
        if batch.given is not None:
            x = x.index_copy(0, batch.given.index, batch.given.vectors)
        rotate = Rotation(self.architecture, batch.positions, x.dtype)
        last = None if self._by_block else len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            x = block(x, rotate, batch, cache, layer == last)
        return self.norm(x[batch.wanted] if self._by_block else x)

    def logits(self, tokens: Tensor, given: Given | None = None, prompt: int = 0) -> Tensor:
        """Logits (B, T, vocab_rows) of whole rows of tokens (B, T): entry [:, i] predicts the token at position i.

        given   vectors in place of some embeddings, the tokens counted through all rows
        prompt  how many of the first columns are the prompt: some networks count their blocks from its end, and causal
                ones read it from left to right
        """
        batch = replace(whole_rows(tokens, self.architecture, prompt), given=given)
        return self.head(self(batch)).view(*tokens.shape, -1)

    def matrices(self) -> list[list[Tensor]]:
        """What `fuse` packs, block by block, before it is fused: weights of all products but a router's."""
        return [list(_matrices(block)) for block in self.blocks]


def _matrices(block: nn.Module) -> Iterator[Tensor]:
    for module in block.modules():
        if isinstance(module, nn.Linear):
            yield module.weight
        elif isinstance(module, MixtureOfExperts):
            yield from (module.gate_up, module.down)
