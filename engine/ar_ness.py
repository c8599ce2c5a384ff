"""AR-ness: how close the order of reveals is to left to right (DiffuCoder, Gong et al., arXiv 2506.20639).

An order is the positions of one answer as they were revealed, each once. The paper reveals one token per step. Tokens
that one step revealed count from left to right. A left-to-right order scores 1 on both measures.
"""

from collections.abc import Sequence
from itertools import pairwise

from unmask.engine.request import Result


def reveal_order(result: Result) -> list[int]:
    """The order of one answer."""
    return [reveal.position for reveal in result.reveals]


def local_ar_ness(order: Sequence[int], k: int = 1) -> float:
    """Share of reveals that end a run of k + 1 neighbours, each revealed right after the one on its left.

    The first k reveals have too few before them and do not count; an order of no more than k scores 1.
    """
    run, runs = 0, []  # reveals before this one that lead to it without a gap
    for previous, position in pairwise(order):
        run = run + 1 if position == previous + 1 else 0
        runs.append(run)
    counted = runs[k - 1 :]
    return sum(run >= k for run in counted) / len(counted) if counted else 1.0


def global_ar_ness(order: Sequence[int], k: int = 1) -> float:
    """Share of reveals among the k leftmost positions that were still masks. Positions never revealed are left out."""
    masked = sorted(order)
    leftmost = 0
    for position in order:
        leftmost += position in masked[:k]
        masked.remove(position)
    return leftmost / len(order) if order else 1.0
