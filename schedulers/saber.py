"""Saber: more at once the surer it has been so far, and the tokens that lose ground are taken back."""

from dataclasses import dataclass

import torch

from unmask.schedulers.base import Decision, Needs, State, View, top_n, wide, wide_dtype
from unmask.schedulers.options import option

SHARE = 8  # one token is taken back for so many that are revealed


@dataclass(frozen=True)
class SaberOptions:
    n: int = option(2, "least tokens revealed at each step, before some are taken back", minimum=1, fast=8)


class Saber:
    """Reveals what is surer than the tokens so far were when they were revealed, and takes back the worst losers.

    Formula: theta = the mean of the confidences at which the request's tokens were last revealed, 1 before the first;
    S = {i : c_i > theta}, or the n highest c_i if |S| < n; f = max(n, |S|). Unless S fills the block, of its revealed
    tokens, S included, the min(max(floor(n / 2), ceil(f / 8)), f - 1) with the lowest c_i now - c_i one pass before are
    masks again: c is the confidence of the proposal, whatever token stands there. Before the first pass it is 0; in the
    first pass over a later block nothing is taken back. Source: Saber (arXiv 2510.18165, published code), but that it
    takes tokens of earlier blocks back, too: use full diffusion, as it does. Defaults: n = 2.
    """

    Options = SaberOptions
    needs = Needs(remask=True, window="block")

    def decide(self, view: View, state: State) -> Decision:
        begins, zeros = (view.block_step == 0)[:, None], torch.zeros_like(view.confidence)
        kept = state.get("kept", zeros).masked_fill(begins, 0.0)  # confidence at which each was last revealed
        last = state.get("last", zeros).masked_fill(begins, 0.0)
        total = state.get("total", torch.zeros_like(view.step, dtype=wide_dtype(view.step.device)))
        count = state.get("count", torch.zeros_like(view.step))
        n, theta = view.options["n"], torch.where(count > 0, total / count.clamp(min=1), 1.0)
        chosen = view.eligible & (wide(view.confidence) > theta[:, None])
        chosen = torch.where((chosen.sum(1) < n)[:, None], top_n(view.confidence, view.eligible, n), chosen)
        largest = torch.maximum(n, chosen.sum(1))
        back = torch.minimum(torch.maximum(n // 2, (largest + SHARE - 1) // SHARE), largest - 1)
        stays = (view.eligible & ~chosen).any(1) & ((view.block_step > 0) | (view.step == 0))
        standing = chosen | ~view.mask & (kept > 0)
        lost = top_n(last - view.confidence, standing, back.masked_fill(~stays, 0))
        now = torch.where(chosen, view.confidence, kept)
        return Decision(
            chosen & ~lost,
            remask=lost & ~view.mask,
            state={
                "kept": now,
                "last": view.confidence,
                "total": total + (wide(now) - wide(kept)).sum(1),
                "count": count + (chosen & (kept == 0)).sum(1),
            },
        )
