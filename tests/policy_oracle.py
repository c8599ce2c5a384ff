"""The policy of arXiv 2512.09106 as its formulae stand, one row and one position at a time, on a dict of tensors."""

import math
from itertools import combinations, permutations

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def logits(w: Weights, mask: Tensor, confidence: Tensor, t: float, heads: int = 2) -> Tensor:
    """(W,) of one row: mask (W,) bool, confidence (W, K), t = steps taken / L."""
    width = w["confidence_proj.weight"].shape[0]
    rounded = [torch.tensor(x).to(torch.bfloat16).float() for x in (math.cos(t), math.sin(t))]
    time = torch.cat([x.repeat(width // 2) for x in rounded])
    time = _linear(w, "time_mlp.2", torch.nn.functional.silu(_linear(w, "time_mlp.0", time)))
    x = _linear(w, "confidence_proj", confidence)
    modulation = torch.stack(
        [_linear(w, f"{BLOCK}.ada_conditioning", w["mask_embedding.weight"][int(m)] + time) for m in mask]
    )
    g1, b1, a1, g2, b2, a2 = modulation.split(width, dim=-1)
    h = _norm(w, f"{BLOCK}.norm1", x) * (1 + g1) + b1
    x = x + (1 + a1) * _linear(w, f"{BLOCK}.out_proj", _attention(w, h, heads))
    h = _norm(w, f"{BLOCK}.norm2", x) * (1 + g2) + b2
    inner = torch.nn.functional.gelu(_linear(w, f"{BLOCK}.linear1", h))
    x = x + (1 + a2) * _linear(w, f"{BLOCK}.linear2", inner)
    return _linear(w, "output_proj", _norm(w, "final_norm", x))[:, 0]


BLOCK = "transformer_blocks.0"


def _attention(w: Weights, h: Tensor, heads: int) -> Tensor:
    size = h.shape[1] // heads
    q, k, v = (_linear(w, f"{BLOCK}.{name}_proj", h) for name in "qkv")
    answer = torch.empty_like(h)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        turned_q, turned_k = (torch.stack([_turned(x[i, part], i, size) for i in range(len(h))]) for x in (q, k))
        weights = (turned_q @ turned_k.T / math.sqrt(size)).softmax(-1)
        answer[:, part] = weights @ v[:, part]
    return answer


def _turned(x: Tensor, position: int, size: int) -> Tensor:
    """Pairs (2i, 2i + 1) turned by position / 10000^(2i / size); first halves of all pairs, then second halves."""
    angles = [position / 10000 ** (2 * i / size) for i in range(size // 2)]
    first = [x[2 * i] * math.cos(a) - x[2 * i + 1] * math.sin(a) for i, a in enumerate(angles)]
    second = [x[2 * i] * math.sin(a) + x[2 * i + 1] * math.cos(a) for i, a in enumerate(angles)]
    return torch.stack([*first, *second])


def _linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def bernoulli_probabilities(utilities: list[float]) -> dict[frozenset[int], float]:
    """P(chosen set), of every set."""
    p = [1 / (1 + math.exp(-u)) for u in utilities]
    everyone = range(len(p))
    sets = [frozenset(chosen) for size in range(len(p) + 1) for chosen in combinations(everyone, size)]
    return {chosen: math.prod(p[i] if i in chosen else 1 - p[i] for i in everyone) for chosen in sets}


def plackett_luce_probabilities(utilities: list[float]) -> dict[tuple[int, ...], float]:
    """P(order drawn before "stop", whose utility is 0), of every order; the first is drawn without "stop"."""
    weights = [math.exp(u) for u in utilities]
    found = {}
    for size in range(1, len(weights) + 1):
        for order in permutations(range(len(weights)), size):
            left, p = set(range(len(weights))), 1.0
            for place, item in enumerate(order):
                p *= weights[item] / (sum(weights[i] for i in left) + (1.0 if place else 0.0))
                left.remove(item)
            found[order] = p / (sum(weights[i] for i in left) + 1.0)
    return found
