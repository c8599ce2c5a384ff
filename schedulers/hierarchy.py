"""Hierarchy: one token in every run of masks, so that what is revealed at once stands apart."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unmask.schedulers.base import Decision, Needs, State, View, at_least_best
from unmask.schedulers.options import option


@dataclass(frozen=True)
class HierarchyOptions:
    threshold: float = option(
        0.9, "reveal every position whose confidence exceeds this", minimum=0.0, maximum=1.0, fast=0.5
    )
    low: float = option(0.4, "reveal the best of a run of masks if it exceeds this", minimum=0.0, maximum=1.0)


class Hierarchy:
    """Reveals the most confident position of every run of adjacent masks, and whatever else is confident.

    Formula: argmax c_i if max c_i < low; else {i : c_i > threshold} and, of each maximal run of adjacent eligible
    masks, its argmax where c_i > low. Source: dInfer's hierarchical decoding (Ma et al., arXiv 2510.08666, published
    code). Defaults: threshold = 0.9, low = 0.4.
    """

    Options = HierarchyOptions
    needs = Needs()

    def decide(self, view: View, state: State) -> Decision:
        c, eligible = view.confidence, view.eligible
        sure = c.masked_fill(~eligible, 0.0).amax(1, keepdim=True) >= view.option("low")
        best = _best_of_runs(c, eligible) & (c > view.option("low"))
        return Decision(at_least_best(((c > view.option("threshold")) | best) & sure, c, eligible))


def _best_of_runs(score: Tensor, eligible: Tensor) -> Tensor:
    """(B, W) bool: the best position of each maximal run of adjacent eligible ones; of equals, the leftmost."""
    order = score.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    starts = eligible & ~torch.nn.functional.pad(eligible[:, :-1], (1, 0))
    run = starts.cumsum(1)  # (B, W), from 1
    ranked = rank.masked_fill(~eligible, order.shape[1])
    first = torch.full_like(rank, order.shape[1] + 1).scatter_reduce(1, run % order.shape[1], ranked, "amin")
    return eligible & (first.gather(1, run % order.shape[1]) == rank)
