"""How a policy's logits become choices, and how likely a choice was (arXiv 2512.09106, section 4 and appendix).

Shapes: logits (..., W) float; eligible (..., W) bool, positions that may be chosen; chosen (..., W) bool. Random
numbers come in, uniform in [0, 1), so that the caller decides on their stream. All functions are pure.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

STOP_LOGIT = 0.0  # utility of stopping, among those of positions
NEVER = -1e9  # utility of what may not be chosen; infinity would make gradients of it "not a number"


def bernoulli(logits: Tensor, eligible: Tensor, draws: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """Each position by itself with probability min(1, factor * sigmoid(logit)). It may be none."""
    return (draws < (factor * logits.sigmoid()).clamp(max=1.0)) & eligible


def bernoulli_log_likelihood(logits: Tensor, eligible: Tensor, chosen: Tensor) -> Tensor:
    """log P(chosen), (...), for factor 1."""
    signed = torch.where(chosen, logits, -logits).float()
    return (F.logsigmoid(signed) * eligible).sum(-1)


def bernoulli_entropy(logits: Tensor, eligible: Tensor) -> Tensor:
    """Mean entropy of the eligible positions in nats, (...)."""
    x = logits.float()
    entropy = -(x.sigmoid() * F.logsigmoid(x) + (-x).sigmoid() * F.logsigmoid(-x))
    return (entropy * eligible).sum(-1) / eligible.sum(-1).clamp(min=1)


def or_best(chosen: Tensor, logits: Tensor, eligible: Tensor) -> Tensor:
    """The choice, or where it is empty the eligible position with the highest logit."""
    best = logits.masked_fill(~eligible, -torch.inf).argmax(-1, keepdim=True)
    fallback = torch.zeros_like(chosen).scatter(-1, best, True) & eligible
    return torch.where(chosen.any(-1, keepdim=True), chosen, fallback)


def plackett_luce(logits: Tensor, eligible: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Dynamic Plackett-Luce: one position for certain, then one by one without replacement until "stop" is drawn.

    draws (2, ..., W + 1). Returns (chosen, order): order (..., W) float ranks the chosen positions from 0, and is
    infinite elsewhere. Sorting by logits with Gumbel noise draws the whole sequence at once.
    """
    gumbel = -(-draws.clamp(min=1e-20).log()).clamp(min=1e-20).log()
    utilities = logits.masked_fill(~eligible, -torch.inf)
    first = (utilities + gumbel[0, ..., :-1]).argmax(-1, keepdim=True)
    is_first = torch.zeros_like(eligible).scatter(-1, first, True) & eligible
    noisy = utilities + gumbel[1, ..., :-1]
    stop = STOP_LOGIT + gumbel[1, ..., -1:]
    chosen = is_first | ((noisy > stop) & eligible)
    key = noisy.masked_fill(is_first, torch.inf).masked_fill(~chosen, -torch.inf)
    return chosen, _rank(key).float().masked_fill(~chosen, torch.inf)


def plackett_luce_log_likelihood(logits: Tensor, eligible: Tensor, order: Tensor) -> Tensor:
    """log P(order), (...): of the first among all eligible, then of each next among what is left and "stop"."""
    utilities = logits.float().masked_fill(~eligible, NEVER)
    by_rank = order.argsort(dim=-1)
    sorted_utilities = utilities.gather(-1, by_rank)
    chosen = order.gather(-1, by_rank).isfinite()
    # left[i] is the log of the summed weights of what has not been drawn before draw i.
    left = sorted_utilities.flip(-1).logcumsumexp(-1).flip(-1)
    left_or_stop = torch.logaddexp(left, torch.full_like(left, STOP_LOGIT))
    denominator = torch.cat([left[..., :1], left_or_stop[..., 1:]], dim=-1)
    picks = torch.where(chosen, sorted_utilities - denominator, 0.0).sum(-1)
    unchosen = utilities.masked_fill(order.isfinite(), NEVER).logsumexp(-1)
    stopped = STOP_LOGIT - torch.logaddexp(unchosen, torch.full_like(unchosen, STOP_LOGIT))
    return torch.where(chosen.any(-1), picks + stopped, 0.0)


def likely(logits: Tensor, eligible: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """Without chance: each position that is rather chosen than not, its odds times the factor, or the best."""
    return or_best((factor * logits.exp() > 1) & eligible, logits, eligible)


def expected(logits: Tensor, eligible: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """Without chance: as many positions as Bernoulli would choose in the mean, rounded, at least one, highest first."""
    probability = (factor * logits.sigmoid()).clamp(max=1.0) * eligible
    count = probability.sum(-1, keepdim=True).round().clamp(min=1)
    return (_rank(logits.masked_fill(~eligible, -torch.inf)) < count) & eligible


def _rank(score: Tensor) -> Tensor:
    """Each position's place from 0, the highest score first, of equals the leftmost."""
    return score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
