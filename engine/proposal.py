"""From hidden states to what schedulers decide on: the proposed token, its probability and the statistics asked for.

Logits, which have the width of the vocabulary, live in this module only: a chunk of positions at a time, read once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from engine.transfer import as_float
from schedulers import Needs, counter_uniform

SAMPLING_STREAM = -1  # schedulers draw from streams 0 and up
CHUNK_BYTES = 256 << 20  # of logits in float32 at a time


@dataclass(frozen=True)
class Proposal:
    """What the model would write at each of M masks; or, after `scatter`, at each place of a view, zeros elsewhere.

    Shapes are (M,) and (M, K), or those of `View`.
    """

    ids: Tensor
    confidence: Tensor
    top_ids: Tensor | None = None
    top_probabilities: Tensor | None = None
    entropy: Tensor | None = None
    kl: Tensor | None = None

    def scatter(self, target: Tensor, rows: int, width: int) -> "Proposal":
        """Entry i moves to place target[i] (M,) of rows and columns counted through, or is dropped."""
        return Proposal(**{name: scatter(value, target, rows, width) for name, value in self._known()})

    @staticmethod
    def join(pieces: list["Proposal"]) -> "Proposal":
        """One proposal of several, one after another."""
        if len(pieces) == 1:
            return pieces[0]
        return Proposal(
            **{name: torch.cat([getattr(piece, name) for piece in pieces]) for name, _ in pieces[0]._known()}
        )

    def _known(self) -> Iterator[tuple[str, Tensor]]:
        return ((field.name, value) for field in fields(self) if (value := getattr(self, field.name)) is not None)


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn at S of the masks; the others take the most probable token.

    index  (S,) long     which of the masks
    draws  (S,) float32  uniform in [0, 1)
    temperature, top_p (S,) float32; top_k (S,) long, 0 for all
    """

    index: Tensor
    draws: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor

    def numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All but the index."""
        return self.draws, self.temperature, self.top_p, self.top_k

    @staticmethod
    def of(arrays: dict[str, Tensor]) -> "Sampling | None":
        """From the arrays of a plan; None if nothing is drawn."""
        if "sampled" not in arrays:
            return None
        draws = counter_uniform(arrays["sampled.seed"], arrays["sampled.position"], SAMPLING_STREAM)
        numbers = (as_float(arrays["sampled.temperature"]), as_float(arrays["sampled.top_p"]))
        return Sampling(arrays["sampled"], draws, *numbers, arrays["sampled.top_k"])


def propose(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    forbidden: Tensor,
    needs: Needs,
    sampling: Sampling | None,
    before: Tensor | None = None,
) -> Proposal:
    """Propose a token at each of M masks and compute the statistics that `needs` asks for.

    hidden (M, width), of which `head` makes logits (M, V); forbidden (V,) bool, ids that are never proposed; before
    (M, width), the hidden states of the pass before, if `needs` asks how far predictions have moved.
    Probabilities are the softmax of the raw logits in float32 over the whole vocabulary, forbidden ids included and at
    temperature 1, as in LLaDA's published loop: temperature, top-p and top-k decide the token, not the confidence in
    it.
    """
    proposal = Proposal.join([_most_probable(head(part), forbidden, needs) for part in _chunks(hidden, forbidden)])
    if before is not None:
        pairs = zip(_chunks(hidden, forbidden), _chunks(before, forbidden), strict=True)
        proposal = replace(proposal, kl=torch.cat([_moved(head(now), head(then)) for now, then in pairs]))
    if sampling is None:
        return proposal
    # The logits of drawn positions are computed once more, rather than kept.
    chunks = zip(*(_chunks(x, forbidden) for x in (hidden[sampling.index], *sampling.numbers())), strict=True)
    drawn = [_draw(head(part), forbidden, *numbers) for part, *numbers in chunks]
    ids, confidence = (torch.cat(column) for column in zip(*drawn, strict=True))
    return replace(
        proposal,
        ids=proposal.ids.index_copy(0, sampling.index, ids),
        confidence=proposal.confidence.index_copy(0, sampling.index, confidence),
    )


def _chunks(x: Tensor, forbidden: Tensor) -> tuple[Tensor, ...]:
    return x.split(max(1, CHUNK_BYTES // (4 * len(forbidden))))


def _most_probable(logits: Tensor, forbidden: Tensor, needs: Needs) -> Proposal:
    logits = logits.float()  # (M, V)
    log_total = logits.logsumexp(-1, keepdim=True)  # (M, 1)
    allowed = logits.masked_fill(forbidden, -torch.inf)
    best, ids = allowed.max(-1)
    confidence = (best - log_total.squeeze(-1)).exp()
    top_ids = top_probabilities = entropy = None
    if needs.top_k == 1:
        top_ids, top_probabilities = ids[:, None], confidence[:, None]
    elif needs.top_k:
        top = allowed.topk(needs.top_k, dim=-1)
        top_ids, top_probabilities = top.indices, (top.values - log_total).exp()
    if needs.entropy:
        log_p = logits - log_total
        entropy = -(log_p.exp() * log_p).sum(-1)
    return Proposal(ids, confidence, top_ids, top_probabilities, entropy)


def _moved(now: Tensor, before: Tensor) -> Tensor:
    """KL(now || before) of logits (M, V), in nats, (M,); infinite where there was nothing before."""
    log_p, log_q = (logits.float().log_softmax(-1) for logits in (now, before))
    return (log_p.exp() * (log_p - log_q)).sum(-1).nan_to_num(torch.inf)


def _draw(
    logits: Tensor, forbidden: Tensor, draws: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw token ids (S,): temperature, then the top_k most probable, then the smallest set with probability top_p.

    One uniform draw (S,) a position, inverted through the cumulative distribution in float64, gives the token. Returns
    the ids and their confidence.
    """
    logits = logits.float()
    scaled = logits.masked_fill(forbidden, -torch.inf).double() / temperature[:, None]
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[-1], device=values.device)
    too_low = (rank >= top_k[:, None]) & (top_k[:, None] > 0)
    p = values.masked_fill(too_low, -torch.inf).softmax(-1)
    beyond = p.cumsum(-1) - p >= top_p[:, None]  # what comes before already reaches top_p
    p = p.masked_fill(beyond & (rank > 0), 0.0)
    cumulative = p.cumsum(-1)
    target = draws.double()[:, None] * cumulative[:, -1:]
    chosen = (cumulative <= target).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    ids = order.gather(-1, chosen)
    return ids.squeeze(-1), (logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)).exp().squeeze(-1)


def scatter(value: Tensor, target: Tensor, rows: int, width: int) -> Tensor:
    """Spread value (M, ...) over (rows, width, ...): entry i to place target[i], counted through, zeros elsewhere.

    Entries whose target is one past the last place are dropped.
    """
    spread = torch.zeros(rows * width + 1, *value.shape[1:], dtype=value.dtype, device=value.device)
    return spread.index_copy_(0, target, value)[:-1].unflatten(0, (rows, width))
