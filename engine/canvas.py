"""One running request on the host: its blocks, its reveals, its settled text, and its end."""

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from unmask.engine.draft import Draft
from unmask.engine.pace import Pace, hurry
from unmask.engine.request import FinishReason, Request, Result, Reveal, Step
from unmask.engine.settled import SettledText
from unmask.engine.structure.progress import Progress
from unmask.models.tokenizer import Tokenizer
from unmask.schedulers import Needs

PASSES_PER_TOKEN = 4  # default cap on forward passes; only remasking needs more than one per token
OPEN_PASSES = 16  # over a block that has no masks, for schedulers that keep it open; SGLang's bound for LLaDA2.1


@dataclass
class Canvas:
    """Prompt, generation region and suffix of one request. Columns count from the start of the prompt, positions from
    its end.

    ids           (T,) int64  token of every column, `mask_id` where there is a mask
    masked        (T,) bool
    pinned        (R,) bool   positions of the generation region that hold a given token
    tail_start    the position after the last pinned one: an end of text from this position on ends the request
    model_block   block size of a block-causal model, whose blocks are counted from the first column; None for others,
                  whose blocks are counted from the start of the generation region
    lead          columns that the first of those blocks lacks, see `Architecture.lead`
    cached_until  block-causal: the slot holds the keys and values of the columns before this one, and they are final
    slot          of its keys and values, if it keeps any
    pages         how many first pages of the slot were found or computed by themselves, see `engine.prefixes`
    page_names    of its first pages, as far as they were asked for
    found         given tokens whose keys and values were found; None if none were looked for
    progress      through the automaton of a structured answer; None for a free one
    draft         what the client expects, as far as it is judged
    share         of a request with a pace: of the way from careful to fast, what the next pass goes

    The tokens are kept on the host. Each step sends the columns that it computes, and reads what it revealed once.
    """

    request: Request
    tokenizer: Tokenizer
    stop_ids: frozenset[int]
    mask_id: int
    model_block: int | None
    needs: Needs
    progress: Progress | None = None
    lead: int = 0
    submitted: float = 0.0
    started: float = 0.0
    ids: NDArray[np.int64] = field(init=False)
    masked: NDArray[np.bool_] = field(init=False)
    pinned: NDArray[np.bool_] = field(init=False)
    tail_start: int = field(init=False)
    cached_until: int = 0
    slot: int | None = None
    pages: int = 0
    page_names: list[bytes] = field(default_factory=list)
    found: int | None = None
    step: int = 0
    block_start: int = 0
    block_step: int = 0
    draft: Draft = field(init=False)
    share: float = 0.0
    text: str = ""
    _settled: int = 0  # positions
    _shares: float = 0.0  # the sum over the passes so far
    _open: int = 0  # passes that the current block had without masks
    _gap_ended: bool = False  # whether an end of text has ended the gap that the last settled position is in
    _reported: int = 0  # tokens that the steps have reported as settled
    _answer: SettledText = field(init=False)
    _cap: int = field(init=False)  # forward passes that the request may have
    _offset: int = field(init=False)  # columns of the prompt in the first block of the generation region
    _gaps: NDArray[np.int64] = field(init=False)  # positions that were masks at first
    _blocks: NDArray[np.int64] = field(init=False)  # indexes of the blocks that had masks at first
    _reveals: dict[int, Reveal] = field(default_factory=dict)  # by position, in order
    _forced: list[Reveal] = field(default_factory=list)  # that the next step reports

    def __post_init__(self) -> None:
        prompt, suffix = self.request.prompt, self.request.suffix
        region = self.request.template or (None,) * self.request.max_tokens
        known = [*prompt, *region, *suffix]
        self.ids = np.array([self.mask_id if token is None else token for token in known], dtype=np.int64)
        self.masked = np.array([token is None for token in known])
        self.pinned = ~self.masked[len(prompt) : len(prompt) + len(region)]
        self.tail_start = int(self.pinned.nonzero()[0].max(initial=-1)) + 1
        self._answer = SettledText(self.tokenizer.detokenizer(), self.request.stop)
        self._gaps = np.flatnonzero(~self.pinned)
        self._cap = self.request.max_forward_passes or PASSES_PER_TOKEN * len(self._gaps)
        self._offset = 0 if self.model_block is None else (len(prompt) + self.lead) % self.request.block_length
        self._blocks = np.unique((self._gaps + self._offset) // self.request.block_length)
        self._skip_full_blocks()
        self.draft = Draft(self.request.draft)
        self._stand(opens=True)

    def column(self, position: int) -> int:
        """The column of a position of the generation region."""
        return len(self.request.prompt) + position

    @property
    def given_columns(self) -> int:
        """The columns before the first mask that there was."""
        return self.column(int(self._gaps[0]))

    @property
    def last_pass(self) -> bool:
        """Whether the next forward pass is the last that the request may have."""
        return self.step + 1 >= self._cap

    @property
    def drafting(self) -> bool:
        """Whether the next pass judges a draft that stands, and does nothing else."""
        return bool(self.draft.standing)

    def choose_share(self, pace: Pace, load: float, now: float) -> float:
        """What the next pass goes of the way from careful to fast, at a load from 0 and a time on the monotonic
        clock."""
        wish = 0.0
        if pace.deadline is not None:
            masks = int(self.masked.sum())
            wish = hurry(pace.deadline - now, now - self.started, self.masks - masks, masks)
        self.share = pace.share(load, wish)
        return self.share

    @property
    def open_column(self) -> int:
        """The first column of the model's block that the current one is in. What is before it is final."""
        column = self.column(self.block_start)
        return 0 if self.model_block is None else column - (column + self.lead) % self.model_block

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
        masks_only = self.needs.window == "masks" and not self.request.input_state.softens
        return np.flatnonzero(self.masked[start:end]) if masks_only else np.arange(end - start)

    def may_be_fed(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """At which positions of the block the next pass may be fed something else than the token."""
        return ~self.pinned[positions] if self.request.input_state.softens else self.masked[self.column(0) + positions]

    def is_fed(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """At which of the positions that might be it is: those that are still masks, or with `soft` those that are none
        any more, unless a structure left no choice for them."""
        masked = self.masked[self.column(0) + positions]
        if not self.request.input_state.softens:
            return masked
        forced = self.progress.forced if self.progress is not None else ()
        return ~masked & ~np.isin(positions, list(forced))

    @property
    def masks(self) -> int:
        """Masks of the generation region at first."""
        return len(self._gaps)

    @property
    def blocks(self) -> int:
        """How many blocks had masks at first."""
        return len(self._blocks)

    @property
    def later(self) -> tuple[int, int]:
        """Masks, and blocks with masks, after the current block."""
        masks = self.masks - int(np.searchsorted(self._gaps, self.block_end))
        return masks, self.blocks - int(np.searchsorted(self._blocks, self._block, side="right"))

    @property
    def _block(self) -> int:
        return (self.block_start + self._offset) // self.request.block_length

    def changes(self, reveal: Reveal) -> bool:
        """Whether a token may be written over the one at its position, which is another."""
        return not self.pinned[reveal.position] and self.ids[self.column(reveal.position)] != reveal.token_id

    def advance(
        self,
        revealed: tuple[Reveal, ...],
        remasked: tuple[int, ...],
        written: tuple[Reveal, ...] = (),
        finish: bool = True,
    ) -> Step:
        """Apply one forward pass; returns what it changed. `finish` ends the block if it has no masks."""
        drafting = self.drafting
        if drafting:
            revealed = self._judge(revealed)
        elif self.needs.remask:
            self.draft.judged = []
        self._open += not self._has_masks(self.block_start, self.block_end)
        for reveal in (*revealed, *written):
            self._write(reveal.position, reveal.token_id, masked=False)
            self._reveals.pop(reveal.position, None)
            self._reveals[reveal.position] = reveal
        remasked = tuple(position for position in remasked if not self._is_forced(position))
        for position in remasked:
            self._write(position, self.mask_id, masked=True)
            del self._reveals[position]
        block, block_end = self._block, self.block_end
        finish = finish or self.last_pass or self._open >= OPEN_PASSES
        if self.model_block is not None:
            self.cached_until = self.open_column
        self._force(block_end)
        self.step += 1
        self._shares += self.share
        self.block_step += not drafting
        ended = finish and not self._has_masks(self.block_start, block_end)
        if ended:
            self.block_start, self.block_step, self._open = block_end, 0, 0
            self._skip_full_blocks()
        result = self._settle()
        if result is None:
            self._stand(opens=ended)
        before = self._reported
        self._reported = len(result.token_ids) if result else self._answer.tokens_of(len(self.text))
        offsets = tuple(self._answer.offsets[before : self._reported])
        revealed = tuple(sorted((*revealed, *self._forced), key=lambda reveal: reveal.position))
        self._forced = []
        index, text = self.step - 1, self.text
        return Step(
            self.request.id, index, revealed, remasked, block, ended, text, result, offsets=offsets, written=written
        )

    def _stand(self, opens: bool) -> None:
        """Let the draft stand as far as it does in the next pass; `opens` where that is the first over a block."""
        if opens:
            self.draft.open(self._masks_of_block())
        if self.last_pass:
            self.draft.drop()
        for position in self.draft.standing:
            self._write(position, self.draft.tokens[position], masked=False)

    def _judge(self, agreed: tuple[Reveal, ...]) -> tuple[Reveal, ...]:
        """Take back what stood of the draft; what is kept of it, and of what the model agreed with."""
        for position in self.draft.standing:
            self._write(position, self.mask_id, masked=True)
        return tuple(replace(reveal, step=self.step) for reveal in self.draft.judge(agreed, self._masks_of_block()))

    def _masks_of_block(self) -> list[int]:
        start, end = self.column(self.block_start), self.column(self.block_end)
        masks: list[int] = (self.block_start + np.flatnonzero(self.masked[start:end])).tolist()
        return masks

    def _skip_full_blocks(self) -> None:
        """Go on to the next block with masks: a block without masks needs no pass."""
        while self.block_start < self.request.max_tokens:
            self._force(self.block_end)
            if self._has_masks(self.block_start, self.block_end):
                return
            self.block_start = self.block_end

    def _force(self, end: int) -> None:
        """Fill the masks of the block up to `end` that the structure leaves no choice for. Of a region that has had no
        pass, the last mask stays: a request has at least one pass."""
        if self.progress is None:
            return
        length = self.request.max_tokens
        end, start = min(end, length if self.step else length - 1), self.column(0)
        found = self.progress.force(
            self.block_start, end, self.ids[start:], self.masked[start:], length, not self.needs.remask
        )
        for position, token in found.items():
            self._write(position, token, masked=False)
            self._reveals[position] = Reveal(position, token, 1.0, self.step)
            self._forced.append(self._reveals[position])

    def _is_forced(self, position: int) -> bool:
        return self.progress is not None and position in self.progress.forced

    def _is_drafted(self, position: int) -> bool:
        draft = self.request.draft
        return position < len(draft) and int(self.ids[self.column(position)]) == draft[position]

    def _has_masks(self, start: int, end: int) -> bool:
        return bool(self.masked[self.column(start) : self.column(end)].any())

    def _write(self, position: int, token: int, masked: bool) -> None:
        column = self.column(position)
        self.ids[column], self.masked[column] = token, masked

    def cancelled(self) -> Step:
        """The last step of a cancelled request."""
        result = self._result(self._answer.tokens_of(len(self.text)), "cancelled")
        return Step(self.request.id, self.step, (), (), self._block, False, self.text, result)

    def _settle(self) -> Result | None:
        """Let the settled text grow; the result if this was the last step."""
        settled, at_end = self._settled_until()
        last = at_end or settled == self.request.max_tokens
        if settled == self._settled and not last:
            return None
        kept = self._kept(self._settled, settled)
        self._answer.add(kept, self._tokens(kept), last)
        self._settled = settled
        if (found := self._answer.first_stop()) is not None:
            at, stop = found
            self.text = self._answer.text[:at]
            return self._result(self._answer.tokens_of(at), "stop", stop=stop)
        self.text = self._answer.text if last else self._answer.without_begun_stop()
        if not last:
            return None
        reason: FinishReason = "stop" if at_end else "length"
        return self._result(len(self._answer.positions), reason, self._reveals.get(settled) if at_end else None)

    def _settled_until(self) -> tuple[int, bool]:
        """The first position that is not settled, and whether an end of text is there that ends the request."""
        position = self._settled
        revises = self.needs.remask or self.needs.write or self.needs.finish
        limit = self.block_start if revises else self.request.max_tokens
        masked = self.masked[self.column(0) :]
        while position < limit and not masked[position]:
            if position >= self.tail_start and self._is_stop(position):
                return position, True
            position += 1
        return position, False

    def _tokens(self, positions: list[int]) -> list[int]:
        tokens: list[int] = self.ids[self.column(0) :][positions].tolist()
        return tokens

    def _is_stop(self, position: int) -> bool:
        return int(self.ids[self.column(position)]) in self.stop_ids

    def _kept(self, start: int, end: int) -> list[int]:
        """The positions from start to end that are text: in a gap, those before its end of text."""
        kept = []
        for position in range(start, end):
            self._gap_ended = not self.pinned[position] and (self._gap_ended or self._is_stop(position))
            if not self._gap_ended:
                kept.append(position)
        return kept

    def _result(self, count: int, reason: FinishReason, end: Reveal | None = None, stop: str | None = None) -> Result:
        now = time.monotonic()
        started = self.started or now
        kept = self._answer.positions[:count]
        accepted = sum(map(self._is_drafted, kept))
        return Result(
            token_ids=tuple(self._tokens(kept)),
            positions=tuple(kept),
            reveals=tuple(self._reveals.values()),
            text=self.text,
            finish_reason=reason,
            prompt_tokens=len(self.request.prompt) + len(self.request.suffix) + int(self.pinned.sum()),
            generated=int((~self.pinned[kept]).sum()),
            forward_passes=self.step,
            queue_seconds=started - self.submitted,
            generate_seconds=now - started,
            end=end,
            offsets=tuple(self._answer.offsets[:count]),
            forced=sum(map(self._is_forced, kept)),
            accepted=accepted,
            rejected=len(self.request.draft) - accepted,
            stop=stop,
            speed=self._shares / self.step if self.request.pace is not None and self.step else None,
            cached_tokens=self.found,
        )
