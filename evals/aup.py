"""Accuracy under parallelism (AUP): a curve of accuracy against tokens per forward pass, as one number.

It is d3LLM's, as its repository computes it (hao-ai-lab/d3LLM, AUP_leaderboard).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

TOLERANCE = 0.05  # accuracy that a curve may lose before its points no longer count
STEEPNESS = 3.0


class Parallel(NamedTuple):
    """One point: tokens of the generation region per forward pass, and accuracy from 0 to 1."""

    tokens: float
    accuracy: float


def aup(curve: Sequence[Parallel], best: float) -> float:
    """The area under a curve, in percent times tokens per pass; accuracy below the `best` of all curves counts less.

        AUP = x_1 y_1 + sum over i > 1 of (x_i - x_{i-1}) / 2 * (y_i w(y_i) + y_{i-1} w(y_{i-1}))
        w(y) = min(exp(-3 (1 - y / best)), 1)

    Points are taken from few tokens per pass to many; those more than five points less accurate than the first are
    left out. d3LLM counts generated tokens; here it is the region, so that a scheduler that cuts answers
    short is not punished for it, nor one that writes at length rewarded. A curve of no accuracy has 0.
    """
    points = sorted(curve)
    points = [point for point in points if point.accuracy >= points[0].accuracy - TOLERANCE]
    if not best:
        return 0.0
    weighed = [(x, 100 * y * min(math.exp(-STEEPNESS * (1 - y / best)), 1.0)) for x, y in points]
    area = 100 * points[0].tokens * points[0].accuracy
    for (before, low), (after, high) in pairwise(weighed):
        area += (after - before) / 2 * (high + low)
    return area
