"""Decoding with an input state, written plainly from the papers around a stock network: the test oracle.

One request, one token a pass (the surest), no batch. What a position is fed at the next pass is computed one position
at a time, in Python's floats.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM

# (logits of the last pass, table of embeddings, token now, mask id, passes before the last one) -> what is fed, or None
# for the embedding of the token
Rule = Callable[[list[float], list[list[float]], int, int, int], list[float] | None]


def probabilities(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    """The softmax."""
    highest = max(logits)
    weights = [math.exp((z - highest) / temperature) for z in logits]
    return [weight / sum(weights) for weight in weights]


def mixture(p: Sequence[float], table: Sequence[Sequence[float]]) -> list[float]:
    """The embedding of each token, weighted by its probability."""
    return [sum(weight * row[d] for weight, row in zip(p, table, strict=True)) for d in range(len(table[0]))]


def residual(alpha: float, temperature: float) -> Rule:
    """Residual Context Diffusion (arXiv 2601.22954)."""

    def rule(z: list[float], table: list[list[float]], token: int, mask: int, k: int) -> list[float] | None:
        if token != mask:
            return None
        p = probabilities(z, temperature)
        a = alpha * sum(-q * math.log(q) for q in p if q > 0) / math.log(len(p))
        return [(1 - a) * m + a * d for m, d in zip(table[mask], mixture(p, table), strict=True)]

    return rule


def iter_smooth(weight: float, initial: float, growth: float) -> Rule:
    """dInfer's smoothing over iterations (arXiv 2510.08666)."""

    def rule(z: list[float], table: list[list[float]], token: int, mask: int, k: int) -> list[float] | None:
        if token != mask:
            return None
        w = min(initial + growth * k, weight)
        return [m + w * d for m, d in zip(table[mask], mixture(probabilities(z), table), strict=True)]

    return rule


def soft(z: list[float], table: list[list[float]], token: int, mask: int, k: int) -> list[float] | None:
    """DMax's soft embeddings (arXiv 2604.08302)."""
    if token == mask:
        return None
    c = probabilities(z)[token]
    s = [c * x + (1 - c) * m for x, m in zip(table[token], table[mask], strict=True)]
    length = c * math.hypot(*table[token]) + (1 - c) * math.hypot(*table[mask])
    return [x * length / (math.hypot(*s) + 1e-6) for x in s]


@torch.no_grad()
def fed_generate(
    stock: LlamaForCausalLM,
    prompt: Sequence[int],
    gen_length: int,
    block_length: int,
    mask_id: int,
    rule: Rule | None,
    cache: str = "none",
) -> list[tuple[int, int, float]]:
    """(position, token, probability) in the order of reveal. Caches are Fast-dLLM's (arXiv 2505.22618, section 3.2)."""
    table = dict(stock.named_parameters())["model.embed_tokens.weight"]
    x = torch.tensor([*prompt, *[mask_id] * gen_length])[None]
    everyone = torch.zeros(1, 1, x.shape[1], x.shape[1])
    revealed, k = [], 0
    for start in range(len(prompt), x.shape[1], block_length):
        end = min(start + block_length, x.shape[1])
        whole = stock(inputs_embeds=table[x], attention_mask=everyone, use_cache=True)
        logits = whole.logits
        while True:
            p, proposal = logits.softmax(-1).max(-1)
            p[x != mask_id] = -torch.inf
            best = start + int(p[0, start:end].argmax())
            x[0, best] = proposal[0, best]
            revealed.append((best - len(prompt), int(x[0, best]), float(p[0, best])))
            if not (x[:, start:end] == mask_id).any():
                break
            fed = _fed(logits, table, x, start, end, mask_id, rule, k)
            logits = _again(stock, fed, everyone, whole.past_key_values, start, end, cache, logits)
            k += 1
        k += 1
    return revealed


def _fed(
    logits: Tensor, table: Tensor, x: Tensor, start: int, end: int, mask_id: int, rule: Rule | None, k: int
) -> Tensor:
    """The canvas as the next pass is fed it, (1, T, D)."""
    fed = table[x].clone()
    for i in range(start, end):
        if rule is not None:
            vector = rule(logits[0, i].tolist(), table.tolist(), int(x[0, i]), mask_id, k)
            fed[0, i] = fed[0, i] if vector is None else torch.tensor(vector)
    return fed


def _again(
    stock: LlamaForCausalLM,
    fed: Tensor,
    everyone: Tensor,
    first: Any,
    start: int,
    end: int,
    cache: str,
    before: Tensor,
) -> Tensor:
    """The logits (1, T, V) of another pass over the block; those that it does not compute stay."""
    if cache == "none":
        return stock(inputs_embeds=fed, attention_mask=everyone).logits
    stop = end if cache == "dual" else fed.shape[1]
    kept = DynamicCache()
    for layer, past in enumerate(first.layers):
        keys, values = (torch.cat([y[:, :, :start], y[:, :, stop:]], dim=2) for y in (past.keys, past.values))
        kept.update(keys, values, layer)
    logits = before.clone()
    logits[:, start:stop] = stock(
        inputs_embeds=fed[:, start:stop],
        attention_mask=everyone[:, :, start:stop],
        position_ids=torch.arange(start, stop)[None],
        past_key_values=kept,
    ).logits
    return logits
