"""Confidence intervals of what a report says, at 95 %."""

from collections.abc import Sequence
from math import inf, sqrt
from statistics import NormalDist, mean, stdev

Z = NormalDist().inv_cdf(0.975)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Interval of a share: Wilson's score interval (JASA 22, 1927), which holds near 0 and 1 too. trials >= 1."""
    share = successes / trials
    scale = 1 / (1 + Z**2 / trials)
    centre = scale * (share + Z**2 / (2 * trials))
    reach = scale * Z * sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    # At a share of 0 or 1 the formula gives exactly that bound, and its rounding may not.
    return max(min(centre - reach, share), 0.0), min(max(centre + reach, share), 1.0)


def normal(values: Sequence[float]) -> tuple[float, float]:
    """Interval of a mean, normal, from the sample standard deviation. One value, which has none, bounds nothing."""
    if len(values) == 1:
        return -inf, inf
    centre, reach = mean(values), Z * stdev(values) / sqrt(len(values))
    return centre - reach, centre + reach
