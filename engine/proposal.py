"""From hidden states to what schedulers decide on: the proposed token, its probability, and the statistics they need.

Logits over the vocabulary exist in this module only, for a chunk of positions at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial

import torch
from torch import Tensor

from unmask.engine.input_state import Embeddings, Shares
from unmask.models.packing import power_of_two
from unmask.schedulers import Needs, counter_uniform
from unmask.schedulers.base import wide

SAMPLING_STREAM = -1  # schedulers draw from streams 0 and up
CHUNK_BYTES = 256 << 20  # of logits in float32 at a time
MANY = 32  # most probable tokens that compiled code computes if more than two are needed
COMPARING = 2  # memory of entropy, KL and blends as a multiple of the logits': probabilities, logarithms, products
DRAWING = 13  # memory of drawing as a multiple of the logits': a sort, and sums in float64


@dataclass(frozen=True)
class Proposal:
    """What the model would write at each of M masks; or, after `scatter`, at each place of a view, zeros elsewhere.

    Shapes are (M,), (M, K) and (M, D), or those of `View`. `fed` (M, D) is what the next pass is fed at what is a mask
    still; it is never scattered.
    """

    ids: Tensor
    confidence: Tensor
    top_ids: Tensor | None = None
    top_probabilities: Tensor | None = None
    entropy: Tensor | None = None
    kl: Tensor | None = None
    stops: Tensor | None = None
    current: Tensor | None = None
    hidden: Tensor | None = None
    fed: Tensor | None = None

    def scatter(self, target: Tensor, rows: int, width: int) -> "Proposal":
        """Move entry i to place target[i] (M,), counted through rows and columns; one past the last place drops it."""
        return Proposal(**{name: scatter(value, target, rows, width) for name, value in self._known() if name != "fed"})

    @staticmethod
    def join(pieces: list["Proposal"]) -> "Proposal":
        """One proposal of several, one after another."""
        if len(pieces) == 1:
            return pieces[0]
        return Proposal(
            **{name: torch.cat([getattr(piece, name) for piece in pieces]) for name, _ in pieces[0]._known()}
        )

    @staticmethod
    def merge(parts: list[tuple[Tensor | None, "Proposal"]], count: int) -> "Proposal":
        """One proposal for `count` masks, of parts with the masks that their first P entries are for, (P,) long; None
        for all. What a part lacks is zero."""
        if len(parts) == 1 and parts[0][0] is None:
            return parts[0][1]
        whole: dict[str, Tensor] = {}
        for index, part in parts:
            assert index is not None
            for name, value in part._known():
                others = whole.get(name)
                others = value.new_zeros(count, *value.shape[1:]) if others is None else others
                whole[name] = others.index_copy(0, index, value[: len(index)])
        return Proposal(**whole)

    def _known(self) -> Iterator[tuple[str, Tensor]]:
        return ((field.name, value) for field in fields(self) if (value := getattr(self, field.name)) is not None)


@dataclass(frozen=True)
class Draws:
    """What `Sampling` is made of, as it travels to the device. S of the masks are drawn.

    seed, position  (S,) long  name the random number of each draw
    The others are those of `Sampling`.
    """

    index: Tensor
    position: Tensor
    seed: Tensor
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor

    def sampling(self) -> "Sampling":
        """How tokens are drawn."""
        uniform = counter_uniform(self.seed, self.position, SAMPLING_STREAM)
        return Sampling(self.index, uniform, self.temperature, self.top_p, self.top_k)


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


Head = Callable[[Tensor], Tensor]


class KeptLogits:
    """A head, and the logits (M, V) that it made of all positions of a step, if it made them at once.

    What comes after a proposal needs them again: on a CPU to make them anew would take as long as several layers.
    """

    def __init__(self, head: Head, hidden: Tensor):
        self._head = head
        self._hidden = hidden
        self._logits: Tensor | None = None

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self._head(hidden)
        if hidden is self._hidden:
            self._logits = logits
        return logits

    def at(self, index: Tensor) -> Tensor:
        """The logits (n, V) of some positions (n,), in float32."""
        return (self._head(self._hidden[index]) if self._logits is None else self._logits[index]).float()


@dataclass(frozen=True)
class Kernels:
    """What `propose` does with one chunk of positions, plain or compiled."""

    most_probable: Callable[[Head, Tensor, Tensor, Needs, Tensor | None, "Blend | None"], Proposal]
    moved: Callable[[Head, Tensor, Tensor], Tensor]
    draw: Callable[..., tuple[Tensor, Tensor]]

    @staticmethod
    def of(compiled: bool) -> "Kernels":
        """The kernels, compiled or not."""
        wrap = partial(torch.compile, dynamic=True) if compiled else lambda plain: plain
        return Kernels(wrap(_most_probable), wrap(_moved), wrap(_draw))


@dataclass(frozen=True)
class Blend:
    """What `propose` needs to say what masks are fed next: of M predictions, or of a chunk of them."""

    embeddings: Embeddings
    shares: Shares

    def in_chunks(self, forbidden: Tensor, times: int) -> list["Blend"]:
        """As `in_chunks` of this module."""
        columns = (in_chunks(column, forbidden, times) for column in vars(self.shares).values())
        return [Blend(self.embeddings, Shares(*some)) for some in zip(*columns, strict=True)]


def propose(
    head: Head,
    hidden: Tensor,
    forbidden: Tensor,
    needs: Needs,
    sampling: Sampling | None,
    before: Tensor | None = None,
    kernels: Kernels | None = None,
    standing: Tensor | None = None,
    blend: Blend | None = None,
) -> Proposal:
    """Propose a token at each of M masks and compute the statistics that `needs` asks for.

    hidden (M, D), of which `head` makes logits (M, V); forbidden (V,) bool, ids that are never proposed; before
    (M, D), the hidden states of the pass before, if `needs` asks how far predictions have moved; standing (M,) long,
    the tokens whose probabilities it asks for; blend, for `Proposal.fed`, which takes one product with the embeddings.
    Probabilities are the softmax of the raw logits in float32 over the whole vocabulary, forbidden ids included and at
    temperature 1, as in LLaDA's published loop: temperature, top-p and top-k decide the token, not the confidence in
    it.
    """
    kernels = kernels or Kernels.of(compiled=False)
    times = COMPARING if needs.entropy or needs.kl or blend is not None else 1
    chunks = in_chunks(hidden, forbidden, times)
    tokens = [None] * len(chunks) if standing is None else in_chunks(standing, forbidden, times)
    blends = [None] * len(chunks) if blend is None else blend.in_chunks(forbidden, times)
    asked = zip(chunks, tokens, blends, strict=True)
    proposal = Proposal.join(
        [kernels.most_probable(head, chunk, forbidden, needs, now, some) for chunk, now, some in asked]
    )
    if before is not None:
        moves = zip(chunks, in_chunks(before, forbidden, times), strict=True)
        proposal = replace(proposal, kl=torch.cat([kernels.moved(head, now, then) for now, then in moves]))
    if sampling is None:
        return proposal
    # The logits of drawn positions are computed again instead of being kept.
    columns = (in_chunks(x, forbidden, DRAWING) for x in (hidden[sampling.index], *sampling.numbers()))
    drawn = [kernels.draw(head, chunk, forbidden, *numbers) for chunk, *numbers in zip(*columns, strict=True)]
    ids, confidence = (torch.cat(column) for column in zip(*drawn, strict=True))
    return replace(
        proposal,
        ids=proposal.ids.index_copy(0, sampling.index, ids),
        confidence=proposal.confidence.index_copy(0, sampling.index, confidence),
    )


def head_bytes(vocabulary: int, positions: int) -> int:
    """The most memory that `propose` takes for some positions beside its arguments: a chunk of logits as the head makes
    them, in float32, and once more without forbidden tokens or as probabilities. Drawing takes no more."""
    return 3 * min(CHUNK_BYTES, 4 * vocabulary * positions * DRAWING)


def widened(needs: Needs, vocabulary: int) -> Needs:
    """Needs that cover these and are one of a few sets, so that few kernels are compiled: 0, 1, 2 or many tokens."""
    many = needs.top_k if needs.top_k <= 2 else max(MANY, power_of_two(needs.top_k))
    return replace(needs, top_k=min(many, vocabulary))


def in_chunks(x: Tensor, forbidden: Tensor, times: int = 1) -> tuple[Tensor, ...]:
    """x (M, ...) in parts whose sizes differ by one at most, for work whose memory is `times` that of the logits."""
    largest = max(1, CHUNK_BYTES // (4 * len(forbidden) * times))
    if len(x) <= largest:
        return (x,)
    # Copies: compiled code treats a view that begins where its memory begins as a special case.
    return tuple(part.clone() for part in x.tensor_split(-(-len(x) // largest)))


def _most_probable(
    head: Head,
    hidden: Tensor,
    forbidden: Tensor,
    needs: Needs,
    standing: Tensor | None = None,
    blend: Blend | None = None,
) -> Proposal:
    logits = head(hidden).float()  # (M, V)
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
    current = None
    if standing is not None:
        current = (logits.gather(-1, standing[:, None]) - log_total).squeeze(-1).exp()
    fed = None if blend is None else blend.embeddings.blend(logits, blend.shares)
    return Proposal(ids, confidence, top_ids, top_probabilities, entropy, current=current, fed=fed)


def _moved(head: Head, now: Tensor, before: Tensor) -> Tensor:
    """KL(now || before) of the predictions from hidden states (M, D), in nats, (M,); infinite where there was nothing
    before."""
    log_p, log_q = (head(hidden).float().log_softmax(-1) for hidden in (now, before))
    return (log_p.exp() * (log_p - log_q)).sum(-1).nan_to_num(torch.inf)


def _draw(
    head: Head,
    hidden: Tensor,
    forbidden: Tensor,
    draws: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
) -> tuple[Tensor, Tensor]:
    """Draw token ids (S,) from hidden states (S, D).

    Temperature, then the top_k most probable, then the smallest set with probability top_p.
    One uniform draw (S,) per position, inverted through the cumulative distribution in float64, gives the token.
    Returns the ids and their confidence.
    """
    logits = head(hidden).float()
    ids = drawn_ids(logits.masked_fill(forbidden, -torch.inf), draws, temperature, top_p, top_k)
    return ids, (logits.gather(-1, ids[:, None]).squeeze(-1) - logits.logsumexp(-1)).exp()


def drawn_ids(
    allowed: Tensor, draws: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, min_p: Tensor | None = None
) -> Tensor:
    """Draw token ids (S,) by logits (S, V), minus infinity where a token is forbidden.

    min_p  (S,) float32  tokens less probable than this share of the most probable one are left out
    """
    scaled = wide(allowed) / temperature[:, None]
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[-1], device=values.device)
    too_low = (rank >= top_k[:, None]) & (top_k[:, None] > 0)
    if min_p is not None:
        too_low = too_low | (values < values[:, :1] + wide(min_p[:, None]).log())
    p = values.masked_fill(too_low, -torch.inf).softmax(-1)
    beyond = p.cumsum(-1) - p >= top_p[:, None]  # what comes before already reaches top_p
    p = p.masked_fill(beyond & (rank > 0), 0.0)
    cumulative = p.cumsum(-1)
    target = wide(draws)[:, None] * cumulative[:, -1:]
    chosen = (cumulative <= target).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return order.gather(-1, chosen).squeeze(-1)


def scatter(value: Tensor, target: Tensor, rows: int, width: int) -> Tensor:
    """Spread value (M, ...) over (rows, width, ...): entry i to place target[i], counted through, zeros elsewhere.

    Entries whose target is one past the last place are dropped.
    """
    spread = torch.zeros(rows * width + 1, *value.shape[1:], dtype=value.dtype, device=value.device)
    return spread.index_copy_(0, target, value)[:-1].unflatten(0, (rows, width))
