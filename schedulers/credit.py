"""Credit: a token that has been the model's favourite for a while is trusted before its probability says so."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best, wide, wide_dtype
from unmask.schedulers.options import option

TOKENS = 8  # most probable ones of each position; credit of the others is lost


@dataclass(frozen=True)
class CreditOptions:
    threshold: float = option(
        0.9, "reveal what is at least this confident with its credit", minimum=0.0, maximum=1.0, fast=0.5
    )
    alpha: float = option(0.7, "how much credit counts", minimum=0.0)
    beta: float = option(0.8, "how much of the credit remains from pass to pass", minimum=0.0, maximum=1.0)
    gamma: float = option(0.2, "power of the probability that is credited", minimum=0.0)


class Credit:
    """Reveals what is confident if the passes before count, too; that may be another token than the most probable.

    Formula: at each pass over the block, of the credit C_i(v), which begins at 0: C <- beta C, then C_i(x) +=
    p_i(x)^gamma for x = argmax p_i at each mask; p'_i(v) proportional to p_i(v) (1 + C_i(v))^alpha; x' = argmax p'_i;
    {i : p'_i(x') >= threshold} and argmax p'_i(x'). Source: CreditDecoding (arXiv 2510.06133; dInfer's published code:
    logits + alpha log(1 + C)). Only the 8 most probable tokens of a pass keep credit: exact as long as a credited token
    stays among them. A drawn proposal is not replaced, only weighed. Defaults: threshold = 0.9, alpha = 0.7,
    beta = 0.8, gamma = 0.2.
    """

    Options = CreditOptions
    needs = Needs(top_k=TOKENS, choice=True)

    def decide(self, view: View, state: State) -> Decision:
        assert view.top_ids is not None
        assert view.top_probabilities is not None
        ids, p = view.top_ids, wide(view.top_probabilities)  # (B, W, K)
        credit = _kept(ids, state, view.block_step == 0) * view.option("beta")[..., None]
        credit[..., 0] += p[..., 0] ** view.option("gamma")
        weight = (1 + credit) ** view.option("alpha")[..., None]
        total = 1 + (p * (weight - 1)).sum(-1)  # (B, W), of all tokens
        best, choice = (p * weight).max(-1)
        drawn = view.proposal != ids[..., 0]
        own = ((ids == view.proposal[..., None]) * (weight - 1)).sum(-1) + 1
        confidence = torch.where(drawn, view.confidence * own, best) / total
        reveal = at_least_best(confidence >= view.option("threshold"), confidence, view.eligible)
        state = {"ids": ids, "credit": credit.masked_fill(~view.eligible[..., None], 0.0)}
        return Decision(reveal, choice=choice.masked_fill(drawn, -1), state=state)


def _kept(ids: Tensor, state: State, begins: Tensor) -> Tensor:
    """The credit that the tokens had after the pass before, (B, W, K) double; none where a block begins."""
    if not state:
        return torch.zeros(ids.shape, dtype=wide_dtype(ids.device), device=ids.device)
    same = ids[..., :, None] == state["ids"][..., None, :]  # (B, W, K, K)
    return (same * state["credit"][..., None, :]).sum(-1).masked_fill(begins[:, None, None], 0.0)
