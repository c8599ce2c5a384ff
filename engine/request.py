"""What goes into the engine and what comes out: requests, steps and results."""

from dataclasses import dataclass, field
from typing import Literal

from unmask.engine.adjustment.request import Adjustment
from unmask.engine.caching import NO_CACHE, Cache
from unmask.engine.errors import RequestError
from unmask.engine.input_state import MASK, InputState
from unmask.engine.pace import Pace
from unmask.engine.structure.request import Structure
from unmask.models.architecture import Architecture
from unmask.schedulers import SchedulerSpec, State

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Request:
    """One generation, parsed and valid: everything that decides its result.

    prompt             token ids before the generation region
    max_tokens         length of the generation region
    block_length       tokens a block; blocks are filled left to right, `max_tokens` is full diffusion
    scheduler          which positions to reveal at each step
    temperature        0 proposes the most probable token; above 0, samples
    top_p, top_k       sample among the most probable tokens only; 1.0 and 0 mean all
    seed               of this request's own random stream
    stop               texts that end the generation; not part of the result
    max_forward_passes the last of these passes reveals everything that is left; by default four per mask
    cache              which keys and values are kept from pass to pass
    template           the generation region at first: a token id at pinned positions, which never change, None at
                       masks; empty if there are only masks
    suffix             token ids after the generation region
    draft              token ids that the region is expected to begin with; those that the model would not write are
                       decoded as ever. `engine.draft` has the rule
    min_tokens         no end of text is proposed at this many first positions of the region
    ignore_eos         none is proposed at all, and one that is pinned ends nothing
    top_logprobs       how many of the most probable tokens each reveal reports
    adjustment         what changes of the model's logits before a token is proposed; None for nothing
    structure          the form that the answer has, whatever the model proposes; None for any
    input_state        what the model is fed at positions that are not settled
    pace               how the load sets the scheduler's dial, in place of its option; None leaves it as it is. With one
                       the result depends on what else runs
    adapter            the place among the model's adapters of the one to use; None for the weights alone
    client             who sent it: a path of names, as (API key, HTTP request). When a row is free, clients take turns,
                       and so do the parts of each. It decides when a request runs, and nothing else
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    block_length: int
    scheduler: SchedulerSpec
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    max_forward_passes: int | None = None
    cache: Cache = NO_CACHE
    template: tuple[int | None, ...] = ()
    suffix: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    top_logprobs: int = 0
    client: tuple[str, ...] = ()
    structure: Structure | None = None
    input_state: InputState = MASK
    adjustment: Adjustment | None = None
    draft: tuple[int, ...] = ()
    pace: Pace | None = None
    adapter: int | None = None

    @property
    def length(self) -> int:
        """Columns of the whole canvas."""
        return len(self.prompt) + self.max_tokens + len(self.suffix)

    @property
    def endless(self) -> int:
        """At how many first positions of the region no end of text is proposed."""
        return self.max_tokens if self.ignore_eos else self.min_tokens


def fit_block_length(length: int, max_tokens: int, a: Architecture) -> int:
    """The nearest block length that fits: at most the generation region or, block-causal, the model's block."""
    return min(length, max_tokens if a.block_size is None else a.block_size)


def check_request(request: Request, adapters: int) -> None:
    """Raise RequestError for what does not suit itself, or a model with so many adapters."""
    check_template(request)
    check_adjustment(request)
    if request.adapter is not None and not 0 <= request.adapter < adapters:
        raise RequestError(f"there is no adapter {request.adapter}; the model has {adapters}", "adapter")


def check_template(request: Request) -> None:
    """Raise RequestError unless the template has the length of the generation region, and a mask to fill."""
    template, length = request.template, request.max_tokens
    if template and (len(template) != length or None not in template):
        raise RequestError(
            f"a canvas of {len(template)} tokens, {template.count(None)} of them masks, does not fit a generation "
            f"region of {length}; give {length} tokens, and at least one mask",
            "canvas",
        )


def writes_others(request: Request) -> bool:
    """Whether the scheduler of a request may write other tokens than the proposals."""
    needs = request.scheduler.needs()
    return needs.write or needs.choice


def check_adjustment(request: Request) -> None:
    """Raise RequestError for a scheduler that changed logits do not change."""
    if request.adjustment is not None and writes_others(request):
        raise RequestError(
            f"scheduler {request.scheduler.name!r} writes other tokens than the proposals, which logit_bias, "
            "penalties and min_p would not change; choose another",
            "scheduler",
        )


def check_block_length(length: int, a: Architecture) -> None:
    """Raise RequestError unless blocks of this length fit into the blocks that a block-causal model works in."""
    if a.block_size is not None and a.block_size % length:
        fitting = ", ".join(str(n) for n in range(1, a.block_size + 1) if a.block_size % n == 0)
        raise RequestError(
            f"block_length {length} does not divide the model's block of {a.block_size} tokens; use one of {fitting}",
            "block_length",
        )


@dataclass(frozen=True)
class Reveal:
    """A token that became visible: its position from the start of the generation region, its probability, and when.

    top  the most probable tokens then, with their probabilities, as many as the request asks for
    """

    position: int
    token_id: int
    probability: float
    step: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Step:
    """One forward pass as one request saw it.

    index     0 for the first
    revealed  what became visible, left to right
    remasked  positions that turned back into masks
    block     index of the block that this pass worked on
    ended     whether the block is over: it has no masks left, and its scheduler does not keep it open
    text      the settled text so far: it only grows, and never past a stop
    result    set on the last step, and only there
    record    `Decision.record` of this step: one row of each tensor, on the model's device
    offsets   for each token that the text has grown by, the characters of the text before it; a character settles with
              all of its tokens
    written   what was written over other tokens of the block, left to right
    """

    request_id: str
    index: int
    revealed: tuple[Reveal, ...]
    remasked: tuple[int, ...]
    block: int
    ended: bool
    text: str
    result: "Result | None" = None
    record: State = field(default_factory=dict)
    offsets: tuple[int, ...] = ()
    written: tuple[Reveal, ...] = ()


@dataclass(frozen=True)
class Result:
    """A finished generation. `token_ids` ends before the first end of text; both end before the first stop text.

    An end of text in a gap before pinned tokens ends that gap alone: the rest of the gap is left out.

    positions      where each of the token_ids stands in the generation region
    offsets        for each of the token_ids, the characters of the text before it; all tokens of a character have that
                   of the character
    prompt_tokens  given tokens: the prompt, the suffix and the pinned ones
    generated      how many of the token_ids were not pinned
    reveals        all positions that are revealed at the end, those after the end of text included, in the order of
                   their last reveal or write
    end            the end of text that ended it, if one did
    forced         how many of the token_ids the structure left no choice for
    stop           the stop text that ended it, if one did
    accepted       how many tokens of the draft the token_ids have at the same positions
    rejected       its other tokens
    speed          of a request with a pace, the mean over its passes of the share of the way from careful to fast
    cached_tokens  how many of the first prompt_tokens had keys and values of earlier requests; None if none were
                   looked for
    """

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    reveals: tuple[Reveal, ...]
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    generated: int
    forward_passes: int
    queue_seconds: float
    generate_seconds: float
    end: Reveal | None = None
    offsets: tuple[int, ...] = ()
    forced: int = 0
    accepted: int = 0
    rejected: int = 0
    stop: str | None = None
    speed: float | None = None
    cached_tokens: int | None = None
