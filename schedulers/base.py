"""The interface between the engine and unmasking schedulers: what a scheduler sees at a step, and what it returns.

Rows (B) are requests; columns (W) are the positions of each row's window, which is its current block unless its
scheduler asks for more, padded on the right to the widest of the batch. A scheduler is a pure decision on such a batch:
it never sees logits, a model, a tokenizer or a request. The engine enforces its invariants on whatever a scheduler
returns.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Window = Literal["masks", "block", "generation"]

ASKED_BY = {"top_ids": "top_k=1", "top_probabilities": "top_k=1"}
ASKED_BY |= {name: f"{name}=True" for name in ("entropy", "kl", "stops", "current", "hidden")}


@dataclass(frozen=True)
class Needs:
    """Statistics that the engine must compute for a scheduler. It computes no others.

    top_k    how many of the most probable tokens the view holds, with their probabilities
    entropy  whether the view holds the entropy of each prediction
    kl       whether the view holds how far each prediction has moved since the previous pass; this runs the head
             twice
    stops    whether the view says which proposals are an end of text
    current  whether the view holds the probability of the token that stands at each revealed position
    hidden   whether the view holds the hidden state that the head makes each prediction of
    remask   whether the scheduler may turn revealed tokens back into masks; the engine refuses it otherwise
    write    whether it may write over revealed tokens
    choice   whether it may have another of the `top_k` most probable tokens written than the proposal
    finish   whether it says when a block without masks is over
    window   which positions have statistics: the masks of the block, the whole block, or the whole generation region,
             which the view then shows. More positions cost more; caches do not compute the whole region, so they
             exclude it

    `current`, `write` and `finish` are about revealed tokens, so `window` must show them: "block" or "generation".
    """

    top_k: int = 0
    entropy: bool = False
    kl: bool = False
    stops: bool = False
    current: bool = False
    hidden: bool = False
    remask: bool = False
    write: bool = False
    choice: bool = False
    finish: bool = False
    window: Window = "masks"

    def __post_init__(self) -> None:
        if type(self.top_k) is not int or self.top_k < 0:
            raise ValueError(f"Needs.top_k must be an integer from 0, not {self.top_k!r}")
        if self.window not in (windows := get_args(Window)):
            raise ValueError(f"Needs.window must be one of {', '.join(windows)}, not {self.window!r}")
        if self.window == "masks" and (blind := [n for n in ("current", "write", "finish") if getattr(self, n)]):
            raise ValueError(f"Needs.{blind[0]} is about revealed tokens, which window 'masks' hides; use 'block'")
        if self.choice and not self.top_k:
            raise ValueError("Needs.choice is among the most probable tokens; ask for some with Needs.top_k")


@dataclass(frozen=True)
class View:
    """What a scheduler may see at a step. Columns outside a row's window are false in `mask` and `eligible`.

    mask         (B, W) bool     positions that are masks now
    eligible     (B, W) bool     masks of the current block, which may be revealed now
    tokens       (B, W) long     the canvas, masks included
    proposal     (B, W) long     the token that the model would write
    confidence   (B, W) float32  its probability: softmax of the raw logits at the proposal. All statistics
                                 are zero where `Needs.window` does not ask for them
    positions    (B, W) long     where each column stands, counted from the start of the generation region
    block_start  (B,) long       first position of the current block
    block_end    (B,) long       one past its last position
    length       (B,) long       length of the generation region
    masks        (B,) long       masks of the generation region at first
    blocks       (B,) long       blocks that had masks at first
    later_masks  (B,) long       masks after the current block
    later_blocks (B,) long       blocks with masks after the current one
    step         (B,) long       forward passes that the request had before this one
    block_step   (B,) long       forward passes that the current block had before this one
    options      {name: (B,)}    the numeric options of each row, by declared type: `int` is long, with -1 for None, and
                                 `float` float32, with NaN for None
    seed         (B,) long       names the random stream of each row at this step; see `uniform`
    top_ids      (B, W, K) long, top_probabilities (B, W, K) float32   if `Needs.top_k` asks for K; descending
    entropy      (B, W) float32  in nats, if `Needs.entropy` asks for it
    kl           (B, W) float32  KL(prediction now || in the previous pass) in nats, if `Needs.kl` asks for it; infinite
                                 where the previous pass did not predict, as in a block's first pass
    stops        (B, W) bool     the proposal is an end of text, if `Needs.stops` asks for it
    current      (B, W) float32  probability of the token that stands there, by the raw logits, if `Needs.current` asks
                                 for it; 0 at masks
    hidden       (B, W, D)       what the head predicts from, in the model's dtype, if `Needs.hidden` asks for it: the
                                 hidden state after the last norm
    """

    mask: Tensor
    eligible: Tensor
    tokens: Tensor
    proposal: Tensor
    confidence: Tensor
    positions: Tensor
    block_start: Tensor
    block_end: Tensor
    length: Tensor
    masks: Tensor
    blocks: Tensor
    later_masks: Tensor
    later_blocks: Tensor
    step: Tensor
    block_step: Tensor
    options: Mapping[str, Tensor]
    seed: Tensor
    top_ids: Tensor | None = None
    top_probabilities: Tensor | None = None
    entropy: Tensor | None = None
    kl: Tensor | None = None
    stops: Tensor | None = None
    current: Tensor | None = None
    hidden: Tensor | None = None

    def option(self, name: str) -> Tensor:
        """One option as a column (B, 1), ready to compare with (B, W) statistics."""
        return self.options[name][:, None]

    def need(self, statistic: str) -> Tensor:
        """A statistic that `Needs` asks for, such as "entropy". Raises ValueError if it was not asked for."""
        value: Tensor | None = getattr(self, statistic)
        if value is None:
            raise ValueError(f"the view holds no {statistic}; ask for it: needs = Needs({ASKED_BY[statistic]})")
        return value

    @property
    def in_block(self) -> Tensor:
        """The positions of the current block, masks or not, (B, W) bool."""
        return in_block(self.positions, self.block_start, self.block_end)

    def most_confident(self) -> Tensor:
        """The eligible position of each row with the highest confidence, (B, W) bool; of equals, the leftmost."""
        return top_n(self.confidence, self.eligible, torch.ones_like(self.step))

    def uniform(self, stream: int = 0) -> Tensor:
        """Independent uniform draws in [0, 1), (B, W) float32.

        A draw depends on the request's seed, its step, the position and `stream` alone, so it is the same
        whatever else is in the batch.
        """
        return counter_uniform(self.seed[:, None], self.positions, stream)

    def rows(self, index: Tensor) -> "View":
        """The view of some rows (index (N,) long). Options are left to the caller."""
        taken = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "options"}
        return replace(self, **{name: value[index] for name, value in taken.items() if value is not None})


@dataclass(frozen=True)
class Decision:
    """What to do now. The engine reveals only eligible positions, and does the rest only for schedulers whose `needs`
    declare it: each field but `reveal`, `state` and `record` has one of its name.

    reveal  (B, W) bool          write the proposal here
    remask  (B, W) bool or None  turn a token that was revealed in this block back into a mask
    write   (B, W) bool or None  write the proposal over a token that was revealed in this block and stays revealed
    choice  (B, W) long or None  an index into `top_ids`: write that token, not the proposal; below 0 the proposal
    finish  (B,) bool or None    whether the block is over if it has no masks now, as with None; false keeps it open for
                                 another pass, at most 16 times
    state   {name: (B,) or (B, W, ...)}  given to the row's next `decide`. Empty at first; a row
            without one gets zeros, and columns are cut or zero-padded to the width of the next view
    record  {name: (B, ...)}  returned with the step as it is, for training; the engine does not read it
    """

    reveal: Tensor
    remask: Tensor | None = None
    write: Tensor | None = None
    choice: Tensor | None = None
    finish: Tensor | None = None
    state: State = field(default_factory=dict)
    record: State = field(default_factory=dict)


class Scheduler(Protocol):
    """Chooses which masked positions to reveal now.

    A class with these members, named by an entry point in the group `unmask.schedulers`, is a scheduler. `Options` is a
    frozen dataclass whose fields are made by `option`. Numeric options arrive per row in `View.options`; each
    distinct set of the others (text, bool) gets its own instance, made by `cls(**them)`.
    """

    Options: ClassVar[type[Any]]
    needs: Needs

    def decide(self, view: View, state: State) -> Decision: ...


NO_FLOAT64 = ("mps", "xpu")  # kinds of devices; of Intel's cards some have it, and none is needed


def wide_dtype(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type in NO_FLOAT64 else torch.float64


def wide(x: Tensor) -> Tensor:
    """The same in float64, or in float32 where the device has no float64."""
    return x.to(wide_dtype(x.device))


def counter_uniform(seed: Tensor, counter: Tensor, stream: int = 0) -> Tensor:
    """Uniform float32 in [0, 1) from integers: SplitMix64 (Steele et al., OOPSLA 2014) of (seed, counter, stream).

    A generator has a state per row and draws row by row; a hash runs over the whole batch at once and gives each row
    the same numbers in any batch. Broadcasts `seed` against `counter`, both long.
    """
    mixed = _mix(_mix(seed + _signed(stream * _GOLDEN % (1 << 64))) + counter * _GOLDEN)
    return ((mixed >> 40) & 0xFFFFFF).float() / (1 << 24)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finalizer on int64; torch has no logical shift, so the sign's copies are masked away."""
    z = z + _GOLDEN
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _MIX_1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _MIX_2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def in_block(positions: Tensor, block_start: Tensor, block_end: Tensor) -> Tensor:
    """Which of the positions (B, W) are in the row's block, whose bounds are (B,)."""
    return (positions >= block_start[:, None]) & (positions < block_end[:, None])


def top_n(score: Tensor, eligible: Tensor, n: Tensor) -> Tensor:
    """The n eligible positions of each row with the highest score; of equals, the leftmost.

    score (B, W) float, eligible (B, W) bool, n (B,) long -> (B, W) bool. A row with fewer eligible positions gives all.
    """
    order = score.masked_fill(~eligible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))
    return (rank < n[:, None]) & eligible


def at_least_best(reveal: Tensor, score: Tensor, eligible: Tensor) -> Tensor:
    """`reveal` (B, W) bool where it is eligible, or the best eligible position of a row that would reveal nothing."""
    chosen = reveal & eligible
    best = top_n(score, eligible, torch.ones_like(eligible[:, 0], dtype=torch.long))
    return torch.where(chosen.any(1, keepdim=True), chosen, best)
