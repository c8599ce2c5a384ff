"""From logits to what schedulers decide on: the proposed token, its probability and the statistics asked for.

Logits of vocabulary width live in this module only; they are read in one pass and dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.request import Request
from engine.transfer import upload
from schedulers import Needs, counter_uniform

SAMPLING_STREAM = -1  # schedulers draw from streams 0 and up


@dataclass(frozen=True)
class Proposal:
    """What the model would write at each position. Shapes and meanings are those of `View`."""

    ids: Tensor
    confidence: Tensor
    top_ids: Tensor | None
    top_probabilities: Tensor | None
    entropy: Tensor | None

    def scatter(self, columns: Tensor, width: int) -> "Proposal":
        """Spread the columns (B, W) over `width` columns: entry [b, i] moves to [b, columns[b, i]], zeros elsewhere."""
        ids, confidence, top_ids, top_probabilities, entropy = (
            None if value is None else _scatter(value, columns, width)
            for value in (self.ids, self.confidence, self.top_ids, self.top_probabilities, self.entropy)
        )
        assert ids is not None
        assert confidence is not None
        return Proposal(ids, confidence, top_ids, top_probabilities, entropy)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn in the rows (N,) with a temperature above 0; the others take the most probable token."""

    rows: Tensor  # (N,) long
    temperature: Tensor  # (N,) float32
    top_p: Tensor  # (N,) float32
    top_k: Tensor  # (N,) long, 0 for all

    @staticmethod
    def of(requests: Sequence[Request], device: torch.device) -> "Sampling | None":
        rows = [row for row, request in enumerate(requests) if request.temperature > 0]
        if not rows:
            return None
        chosen = [requests[row] for row in rows]
        return Sampling(
            upload(rows, device),
            upload([float(request.temperature) for request in chosen], device),
            upload([float(request.top_p) for request in chosen], device),
            upload([request.top_k for request in chosen], device),
        )


def propose(
    logits: Tensor, forbidden: Tensor, needs: Needs, sampling: Sampling | None, seed: Tensor, positions: Tensor
) -> Proposal:
    """Propose a token for each position and compute the statistics that `needs` asks for.

    logits (B, W, V); forbidden (V,) bool, ids that are never proposed; seed (B,) long and positions (B, W) long name
    the random draws.
    Probabilities are the softmax of the raw logits in float32 over the whole vocabulary, forbidden ids included and at
    temperature 1, as in LLaDA's published loop: temperature, top-p and top-k decide the token, not the confidence in
    it.
    """
    logits = logits.float()
    log_total = logits.logsumexp(-1, keepdim=True)  # (B, W, 1)
    allowed = logits.masked_fill(forbidden, -torch.inf)
    ids = allowed.argmax(-1)
    if sampling is not None:
        draws = counter_uniform(seed[:, None], positions, SAMPLING_STREAM)[sampling.rows]
        ids = ids.index_copy(0, sampling.rows, _sample(allowed[sampling.rows], sampling, draws))
    confidence = (logits.gather(-1, ids[..., None]) - log_total).exp().squeeze(-1)
    top_ids = top_probabilities = entropy = None
    if needs.top_k:
        top = allowed.topk(needs.top_k, dim=-1)
        top_ids, top_probabilities = top.indices, (top.values - log_total).exp()
    if needs.entropy:
        log_p = logits - log_total
        entropy = -(log_p.exp() * log_p).sum(-1)
    return Proposal(ids, confidence, top_ids, top_probabilities, entropy)


def _sample(logits: Tensor, sampling: Sampling, draws: Tensor) -> Tensor:
    """Draw token ids (N, W): temperature, then the top_k most probable, then the smallest set with probability top_p.

    One uniform draw (N, W) a position, inverted through the cumulative distribution in float64, gives the token.
    """
    scaled = logits.double() / sampling.temperature[:, None, None]
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[-1], device=values.device)
    too_low = (rank >= sampling.top_k[:, None, None]) & (sampling.top_k[:, None, None] > 0)
    p = values.masked_fill(too_low, -torch.inf).softmax(-1)
    beyond = p.cumsum(-1) - p >= sampling.top_p[:, None, None]  # what comes before already reaches top_p
    p = p.masked_fill(beyond & (rank > 0), 0.0)
    cumulative = p.cumsum(-1)
    target = draws.double()[..., None] * cumulative[..., -1:]
    chosen = (cumulative <= target).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return order.gather(-1, chosen).squeeze(-1)


def _scatter(value: Tensor, columns: Tensor, width: int) -> Tensor:
    index = columns if value.ndim == 2 else columns[..., None].expand_as(value)
    target = torch.zeros(value.shape[0], width, *value.shape[2:], dtype=value.dtype, device=value.device)
    return target.scatter_(1, index, value)
