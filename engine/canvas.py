"""One running request on the host: its phase, what it has revealed, how far it is settled, and when it ends."""

import time
from dataclasses import dataclass, field

from engine.request import FinishReason, Request, Result, Reveal, Step
from models.tokenizer import Tokenizer

PASSES_PER_TOKEN = 4  # the cap of requests that give none; only remasking can need more than one
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for an incomplete UTF-8 sequence


@dataclass
class Canvas:
    """The generation region of one request. Positions count from its start.

    The engine's tensors hold the same tokens on the device; this mirror is brought up to date by the one read of each
    step, and decides everything that depends on values: the phase of the next step, settled text, the end.
    """

    request: Request
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    may_remask: bool
    submitted: float
    started: float = 0.0
    tokens: list[int | None] = field(init=False)
    step: int = 0
    block_start: int = 0
    block_step: int = 0
    text: str = ""
    _settled: int = 0

    def __post_init__(self) -> None:
        self.tokens = [None] * self.request.max_tokens

    @property
    def last_pass(self) -> bool:
        """Whether the next forward pass is the last that the request may have."""
        cap = self.request.max_forward_passes or PASSES_PER_TOKEN * self.request.max_tokens
        return self.step + 1 >= cap

    @property
    def block_end(self) -> int:
        """One past the current block. On the last pass the block is everything that is left."""
        whole = self.last_pass
        return len(self.tokens) if whole else min(self.block_start + self.request.block_length, len(self.tokens))

    @property
    def _block(self) -> int:
        return self.block_start // self.request.block_length

    @property
    def masks_in_block(self) -> int:
        return self.tokens[self.block_start : self.block_end].count(None)

    def advance(self, revealed: tuple[Reveal, ...], remasked: tuple[int, ...]) -> Step:
        """Take in one forward pass and say what it changed."""
        for reveal in revealed:
            self.tokens[reveal.position] = reveal.token_id
        for position in remasked:
            self.tokens[position] = None
        block, block_end = self._block, self.block_end
        self.step += 1
        self.block_step += 1
        if None not in self.tokens[self.block_start : block_end]:
            self.block_start, self.block_step = block_end, 0
        return Step(self.request.id, self.step - 1, revealed, remasked, block, *self._settle())

    def cancelled(self) -> Step:
        """The last step of a request that ends before its time."""
        result = self._result(self._settled, "cancelled")
        return Step(self.request.id, self.step, (), (), self._block, self.text, result)

    def _settle(self) -> tuple[str, Result | None]:
        """(settled text, result if this was the last step)."""
        grown = self._settled
        limit = self.block_start if self.may_remask else len(self.tokens)
        while grown < limit and self.tokens[grown] is not None and self.tokens[grown] not in self.stop_ids:
            grown += 1
        at_end = grown == len(self.tokens)
        at_stop_id = grown < limit and self.tokens[grown] in self.stop_ids
        if grown == self._settled and not (at_end or at_stop_id):
            return self.text, None
        self._settled = grown
        text = self._decode(grown)
        if (found := _first_stop(text, self.request.stop)) is not None:
            self.text = text[:found]
            return self.text, self._result(self._tokens_to_cover(found), "stop")
        if at_end or at_stop_id:
            self.text = text
            return text, self._result(grown, "stop" if at_stop_id else "length")
        self.text = _without_unsure_end(text, self.request.stop)
        return self.text, None

    def _decode(self, count: int) -> str:
        return self.tokenizer.decode([token for token in self.tokens[:count] if token is not None])

    def _tokens_to_cover(self, characters: int) -> int:
        """How many tokens it takes to write the first so many characters."""
        return next(count for count in range(len(self.tokens) + 1) if len(self._decode(count)) >= characters)

    def _result(self, count: int, reason: FinishReason) -> Result:
        now = time.monotonic()
        started = self.started or now
        return Result(
            token_ids=tuple(token for token in self.tokens[:count] if token is not None),
            text=self.text,
            finish_reason=reason,
            prompt_tokens=len(self.request.prompt),
            forward_passes=self.step,
            queue_seconds=started - self.submitted,
            generate_seconds=now - started,
        )


def _first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    found = [index for stop in stops if (index := text.find(stop)) >= 0]
    return min(found, default=None)


def _without_unsure_end(text: str, stops: tuple[str, ...]) -> str:
    """Hold back what more tokens may still change: an incomplete character, or the beginning of a stop text."""
    text = text.rstrip(REPLACEMENT)
    longest = max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
    return text[: len(text) - longest]
