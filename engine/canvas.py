"""One running request on the host: its phase, what it has revealed, how far it is settled, and when it ends."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from engine.request import FinishReason, Request, Result, Reveal, Step
from models.tokenizer import Tokenizer
from schedulers import Needs

PASSES_PER_TOKEN = 4  # the cap of requests that give none; only remasking can need more than one
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for an incomplete UTF-8 sequence


@dataclass
class Canvas:
    """Prompt, generation region and suffix of one request. Columns count from the start of the prompt, positions from
    its end.

    ids       (T,) int64  token of every column, `mask_id` where there is a mask
    masked    (T,) bool
    pinned    (R,) bool   positions of the generation region that hold a given token
    last_gap  the position behind all of these: an end of text from here on ends the request
    grid      block size of a block-causal model, whose blocks are counted from the first column; None where blocks
              start with the generation region
    final     block-causal: so many columns have keys and values that can no longer change, and are in the slot
    slot      of its keys and values, if it keeps any

    The tokens live here, on the host: each step sends what it computes, and reads once what it revealed.
    """

    request: Request
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    mask_id: int
    grid: int | None
    needs: Needs
    submitted: float
    started: float = 0.0
    ids: NDArray[np.int64] = field(init=False)
    masked: NDArray[np.bool_] = field(init=False)
    pinned: NDArray[np.bool_] = field(init=False)
    last_gap: int = field(init=False)
    final: int = 0
    slot: int | None = None
    step: int = 0
    block_start: int = 0
    block_step: int = 0
    text: str = ""
    _settled: int = 0
    _reveals: dict[int, Reveal] = field(default_factory=dict)  # by position, in order

    def __post_init__(self) -> None:
        prompt, suffix = self.request.prompt, self.request.suffix
        region = self.request.template or (None,) * self.request.max_tokens
        known = [*prompt, *region, *suffix]
        self.ids = np.array([self.mask_id if token is None else token for token in known], dtype=np.int64)
        self.masked = np.array([token is None for token in known])
        self.pinned = ~self.masked[len(prompt) : len(prompt) + len(region)]
        self.last_gap = int(self.pinned.nonzero()[0].max(initial=-1)) + 1
        self._skip_full_blocks()

    def column(self, position: int) -> int:
        """The column at which a position of the generation region stands."""
        return len(self.request.prompt) + position

    @property
    def last_pass(self) -> bool:
        """Whether the next forward pass is the last that the request may have."""
        cap = self.request.max_forward_passes or PASSES_PER_TOKEN * int((~self.pinned).sum())
        return self.step + 1 >= cap

    @property
    def block_end(self) -> int:
        """One past the current block. On the last pass the block is everything that is left."""
        length = self.request.max_tokens
        return length if self.last_pass else min((self._block + 1) * self.request.block_length - self._offset, length)

    @property
    def window(self) -> tuple[int, int]:
        """The positions that the scheduler sees: the block, or the generation region."""
        return (0, self.request.max_tokens) if self.needs.window == "generation" else (self.block_start, self.block_end)

    @property
    def wanted(self) -> NDArray[np.int64]:
        """Which positions to predict, counted from the start of the window."""
        start, end = map(self.column, self.window)
        return np.flatnonzero(self.masked[start:end]) if self.needs.window == "masks" else np.arange(end - start)

    @property
    def _offset(self) -> int:
        """Columns of the prompt that stand in the first block of the generation region."""
        return 0 if self.grid is None else len(self.request.prompt) % self.request.block_length

    @property
    def _block(self) -> int:
        return (self.block_start + self._offset) // self.request.block_length

    def advance(self, revealed: tuple[Reveal, ...], remasked: tuple[int, ...]) -> Step:
        """Take in one forward pass and say what it changed."""
        for reveal in revealed:
            self._write(reveal.position, reveal.token_id, masked=False)
            self._reveals[reveal.position] = reveal
        for position in remasked:
            self._write(position, self.mask_id, masked=True)
            del self._reveals[position]
        block, block_end = self._block, self.block_end
        if self.grid is not None:
            self.final = self.column(self.block_start) // self.grid * self.grid
        self.step += 1
        self.block_step += 1
        ended = not self._has_masks(self.block_start, block_end)
        if ended:
            self.block_start, self.block_step = block_end, 0
            self._skip_full_blocks()
        return Step(self.request.id, self.step - 1, revealed, remasked, block, ended, *self._settle())

    def _skip_full_blocks(self) -> None:
        """Go on to the next block with masks: what is pinned from end to end needs no pass."""
        while self.block_start < self.request.max_tokens and not self._has_masks(self.block_start, self.block_end):
            self.block_start = self.block_end

    def _has_masks(self, start: int, end: int) -> bool:
        return bool(self.masked[self.column(start) : self.column(end)].any())

    def _write(self, position: int, token: int, masked: bool) -> None:
        column = self.column(position)
        self.ids[column], self.masked[column] = token, masked

    def cancelled(self) -> Step:
        """The last step of a request that ends before its time."""
        result = self._result(self._settled, "cancelled")
        return Step(self.request.id, self.step, (), (), self._block, False, self.text, result)

    def _settle(self) -> tuple[str, Result | None]:
        """(settled text, result if this was the last step)."""
        grown = self._settled
        limit = self.block_start if self.needs.remask else self.request.max_tokens
        masked = self.masked[self.column(0) :]
        while grown < limit and not masked[grown] and not (grown >= self.last_gap and self._is_stop(grown)):
            grown += 1
        at_end = grown == self.request.max_tokens
        at_stop_id = grown < limit and not masked[grown]
        if grown == self._settled and not (at_end or at_stop_id):
            return self.text, None
        self._settled = grown
        text = self._decode(grown)
        if (found := _first_stop(text, self.request.stop)) is not None:
            self.text = text[:found]
            return self.text, self._result(self._tokens_to_cover(found), "stop")
        if at_end or at_stop_id:
            self.text = text
            result = self._result(grown, "stop" if at_stop_id else "length")
            return text, replace(result, end=self._reveals.get(grown)) if at_stop_id else result
        self.text = _without_unsure_end(text, self.request.stop)
        return self.text, None

    def _decode(self, count: int) -> str:
        return self.tokenizer.decode(self._tokens(self._kept(count)))

    def _tokens(self, positions: Sequence[int]) -> list[int]:
        tokens: list[int] = self.ids[self.column(0) :][list(positions)].tolist()
        return tokens

    def _is_stop(self, position: int) -> bool:
        return int(self.ids[self.column(position)]) in self.stop_ids

    def _kept(self, count: int) -> Sequence[int]:
        """Which of the first positions, none of them masks, are text: in a gap, those before its end of text."""
        if not self.last_gap:
            return range(count)
        kept, ended = [], False
        for position, pinned in enumerate(self.pinned[:count]):
            ended = not pinned and (ended or self._is_stop(position))
            if not ended:
                kept.append(position)
        return kept

    def _tokens_to_cover(self, characters: int) -> int:
        """How many tokens it takes to write the first so many characters."""
        return next(count for count in range(self.request.max_tokens + 1) if len(self._decode(count)) >= characters)

    def _result(self, count: int, reason: FinishReason) -> Result:
        now = time.monotonic()
        started = self.started or now
        kept = self._kept(count)
        return Result(
            token_ids=tuple(self._tokens(kept)),
            positions=tuple(kept),
            reveals=tuple(self._reveals.values()),
            text=self.text,
            finish_reason=reason,
            prompt_tokens=len(self.request.prompt) + len(self.request.suffix) + int(self.pinned.sum()),
            generated=int((~self.pinned[list(kept)]).sum()),
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
