"""The only decode loop: commands, endpoints, evaluation and training all read its steps."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from math import isfinite

import torch
from torch import Tensor

from unmask.defaults import MEMORY_FRACTION
from unmask.engine.adjustment.adjust import Changes, adjust
from unmask.engine.batch import Batch
from unmask.engine.caching import check_cache, check_needs
from unmask.engine.canvas import Canvas
from unmask.engine.decided import Decided, Proposed, read
from unmask.engine.errors import NotFiniteError, RequestError
from unmask.engine.graphs import GRAPH_TOKENS, Graphs
from unmask.engine.groups import Choice, GroupInputs
from unmask.engine.growth import forbidden, growth_of
from unmask.engine.input_state import Embeddings
from unmask.engine.network import Network
from unmask.engine.plan import Part, Plan, StepInputs, plan_step
from unmask.engine.prefixes import Prefixes
from unmask.engine.proposal import Blend, Head, KeptLogits, Kernels, Proposal, propose, widened
from unmask.engine.ranks.group import Ranks
from unmask.engine.recording import CUDARecorder, TapeRecorder
from unmask.engine.request import Request, Result, Step, check_block_length, check_request, needs_of
from unmask.engine.room import Room, memory_for
from unmask.engine.scoring import Question, Scored, answers, pack_questions
from unmask.engine.slots import Slots, columns_needed
from unmask.engine.stopwatch import Stopwatch
from unmask.engine.structure.compiled import Structures
from unmask.engine.structure.constrain import constrain
from unmask.engine.transfer import to_device
from unmask.engine.waiting import Waiting
from unmask.models.cache import KeyValues
from unmask.models.loading import Model
from unmask.models.packing import NetworkInputs, Shapes
from unmask.schedulers import Needs


class Engine:
    """Runs requests in batches, one forward pass at a time. Not thread-safe; `EngineService` gives it a thread.

    max_rows         requests that run at the same time; the others wait
    memory_fraction  share of the free memory that keys and values may take. It is measured when the engine is made, and
                     allocated when the first request asks for a cache
    static           whether small passes are padded to a few shapes, captured and replayed; by default where the
                     model is compiled for CUDA
    batch_invariant  whether each row has forward passes of its own, in turn
    prefix_reuse     whether keys and values of finished blocks stay for later requests, see `engine.prefixes`
    watch            times the phases of each step
    ranks            those that the model is split over; None if it is whole

    Requests join and leave at any step, and rows of a batch may differ in everything. A result depends on its request's
    fields alone, except with a pace: bit for bit with `batch_invariant`, and otherwise up to the rounding of matrix
    products, which differs between batches of different shapes.
    """

    def __init__(
        self,
        model: Model,
        max_rows: int = 64,
        memory_fraction: float = MEMORY_FRACTION,
        static: bool | None = None,
        batch_invariant: bool = False,
        watch: Stopwatch | None = None,
        prefix_reuse: bool = True,
        ranks: Ranks | None = None,
    ):
        self.model = model
        self._network = Network(model.network, ranks)
        self._architecture = model.network.architecture
        self._max_rows = max_rows
        # Not with experts: on some devices their products wait for the host, which a captured graph must not do.
        capturable = model.device.type == "cuda" and self._architecture.experts is None
        self._static = model.compiled and capturable if static is None else static
        self._recurring = GRAPH_TOKENS if self._static else 0
        self._shapes: Shapes = "uniform" if self._static or model.compiled else "exact"
        self._batch_invariant = batch_invariant
        self._prefix_reuse, self._watch = prefix_reuse, watch
        self._forbidden, self._growing = forbidden(model)
        self._stops = torch.zeros_like(self._forbidden)
        self._stops[sorted(model.stop_ids)] = True
        self._room = Room(model, max_rows, memory_fraction, self._network.free(model.device))
        self._cache = self._network.key_values(self._room.columns, model.device, model.dtype)
        self._kernels = Kernels.of(model.compiled)
        self._structures = Structures(model)
        self.reset()

    def reset(self) -> None:
        """Forget every request, waiting or running, and all that was kept."""
        self._waiting = Waiting()
        self._batches: deque[Batch] = deque()  # the first has the next pass
        alone = self._shapes == "exact" or self._batch_invariant
        self._prefixes = Prefixes(self._cache, self._architecture, self._batch_invariant, self._prefix_reuse)
        self._slots = Slots(self._cache, 1 if alone else min(2, self._max_rows), self._prefixes.pages)
        cuda = self.model.device.type == "cuda"
        self._graphs = Graphs(CUDARecorder(self.model.device) if cuda else TapeRecorder()) if self._static else None

    @property
    def running(self) -> int:
        """Requests that are rows of a batch."""
        return sum(len(batch.canvases) for batch in self._batches)

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._waiting)

    @property
    def lost(self) -> str | None:
        """Why no step can be taken any more: a rank was lost. None if all is well."""
        return self._network.lost

    @property
    def cache_usage(self) -> float:
        """Share of the memory for keys and values that rows hold, from 0 to 1."""
        return self._slots.usage

    def check(self, request: Request) -> None:
        """Raise RequestError if cache, scheduler, block length or canvas do not fit, or there is no room."""
        check_cache(request.cache, self._architecture)
        check_needs(request.scheduler, request.cache, self._architecture)
        check_block_length(request.block_length, self._architecture)
        check_request(request, len(self.model.adapters))
        self._room.check(length := request.length)
        if request.cache.name != "none" and columns_needed(length) > self._slots.longest:
            raise RequestError(
                f"cache {str(request.cache)!r} has room for {self._slots.longest} tokens and the request has {length}; "
                "shorten it, use cache none, or raise --memory-fraction",
                "cache",
            )

    def prepare(self, request: Request) -> Canvas:
        """The canvas of a request that has been checked, for `enqueue`. Any thread may call this. The automaton of a
        new structure is made here, which may take seconds.

        Raises RequestError, or SchedulerError if the scheduler cannot be made.
        """
        needs = needs_of(request)
        self.check(request)
        stop_ids = frozenset[int]() if request.ignore_eos else self.model.stop_ids
        a, tokenizer, mask_id = self._architecture, self.model.tokenizer, self.model.mask_id
        model_block, lead = a.block(request.block_length), a.lead(len(request.prompt))
        progress = self._structures.progress(request)
        growth = growth_of(request, self.model)
        return Canvas(request, tokenizer, stop_ids, mask_id, model_block, needs, progress, lead, a.causal, growth)

    def needed(self, request: Request) -> int:
        """The tokens of the shortest answer of a request's structure, which is made if it is new. Any thread may call.

        Raises RequestError if it cannot be kept, or SchedulerError if the scheduler cannot be made.
        """
        needs_of(request)
        return self._structures.needed(request)

    def enqueue(self, canvas: Canvas) -> None:
        """Let a request wait; it joins at the next step that has room."""
        canvas.submitted = time.monotonic()
        self._waiting.put(canvas)

    def submit(self, request: Request) -> None:
        """Prepare a request and let it wait. Raises what `prepare` raises."""
        self.enqueue(self.prepare(request))

    @torch.inference_mode()
    def cancel(self, request_id: str) -> Step | None:
        """Drop a request, waiting or running; its last step says so. None if there is no such request."""
        if (waiting := self._waiting.drop(request_id)) is not None:
            return waiting.cancelled()
        return next((canvas.cancelled() for canvas in self._leave({request_id})), None)

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """Advance the running requests by one forward pass: all of them or, with `batch_invariant`, the next one.

        Raises SchedulerError if a scheduler fails, and NoMemoryError if the device has too little memory for all rows:
        cancel the requests that the error names, and the others go on. Raises NotFiniteError if the model computes NaN
        for some requests: these have ended, and the error holds the steps of the others.
        """
        self._admit()
        if not self._batches:
            return []
        batch = self._batches[0]
        batch.groups.set_pace(load=self.waiting / self._max_rows)
        first_slot = (batch.canvases[0].keys.slot or 0) if self._batch_invariant else 0  # of those that the pass reads
        cache = self._cache.from_slot(first_slot)
        capacity, kept, shapes = cache.capacity, batch.feed.kept, self._shapes
        self._complete(batch, cache, first_slot)
        plan = plan_step(batch.canvases, self._architecture, capacity, shapes, self._recurring, first_slot, kept)
        steps, lost = batch.advance(read(self._run(batch, plan, cache), batch.canvases))
        self._slots.wipe(lost)
        self._prefixes.keep([canvas for canvas in batch.canvases if canvas.step == 1])
        self._batches.rotate(-1)
        self._leave({*lost, *(step.request_id for step in steps if step.result is not None)})
        if lost:
            raise NotFiniteError(self.model.precision, lost, steps)
        return steps

    def _complete(self, batch: Batch, cache: KeyValues, first_slot: int) -> None:
        """Find the prefixes of rows, and run the forward passes that compute what is missing of them by itself."""
        for inputs in self._prefixes.missing(batch.canvases, cache.capacity, self._shapes, first_slot):
            if self._watch is not None:
                self._watch.count(0, len(inputs.tokens))
            with memory_for(batch.largest), self._phase("model"):
                self._network.hidden(to_device(inputs, self.model.device), cache)

    def _run(self, batch: Batch, plan: Plan, cache: KeyValues) -> Decided:
        """One forward pass and the decisions on it, on the device."""
        if self._watch is not None:
            self._watch.count(len(batch.canvases), plan.columns)
        with memory_for(batch.largest):
            inputs, groups = to_device((plan.inputs, batch.groups.inputs), self.model.device)
            with self._phase("model"):
                network = inputs.network
                if inputs.feed is not None:
                    network = replace(network, given=batch.feed.given(inputs.feed))
                hidden = self._hidden(network, cache, plan.recurs)[: len(inputs.window.target)]
            return self._propose_and_choose(batch, hidden, inputs, groups)

    def _propose_and_choose(
        self, batch: Batch, hidden: Tensor, inputs: StepInputs, groups: tuple[GroupInputs, ...]
    ) -> Decided:
        """Propose and choose, from the hidden states (M, D) of the positions to predict."""
        with self._phase("statistics"):
            needs = self._needs(batch.groups.needs)
            head = KeptLogits(self._network.head, hidden)
            before = batch.previous.of(batch.canvases, hidden, inputs.window) if needs.kl else None
            standing = inputs.window.of_each(inputs.window.tokens) if needs.current else None
            ask = head if inputs.amends and not self.model.compiled else self._network.head
            parts = [(part.places, self._propose(part, ask, hidden, needs, before, standing)) for part in inputs.parts]
            proposal = self._amended(batch, Proposal.merge(parts, len(hidden)), head, inputs)
            if needs.stops:
                proposal = replace(proposal, stops=self._stops[proposal.ids])
            if needs.hidden:
                proposal = replace(proposal, hidden=hidden)
        with self._phase("scheduler"):
            view = inputs.view(proposal)
            top_logprobs = batch.groups.top_logprobs
            proposed = Proposed.of(view, needs.top_k if needs.choice else top_logprobs)
            chosen = batch.choose(view, inputs, groups, self._stops)
            if chosen.choice is not None:
                proposed = proposed.taking(chosen.choice, top_logprobs)
            if needs.kl:
                batch.previous.keep(batch.canvases, hidden, inputs.window)
            batch.feed.keep(batch.canvases, self._fed_next(inputs, proposal, standing, proposed, chosen))
        return Decided(chosen.reveal, chosen.remask, proposed, chosen.write, chosen.finish)

    def _amended(self, batch: Batch, proposal: Proposal, head: KeptLogits, inputs: StepInputs) -> Proposal:
        """The proposal (M,), with the tokens that adjusted and structured rows want instead."""
        barred, changes = self._forbidden, None
        if (adjustment := inputs.adjustment) is not None:
            changes = Changes.of(adjustment, len(barred))
            proposal = adjust(proposal, head, barred, self._stops, adjustment, changes)
        if inputs.structure is not None:
            tables = [canvas.progress.tables for canvas in batch.canvases if canvas.progress is not None]
            rows = None if adjustment is None else adjustment.structured
            proposal = constrain(proposal, head, barred, inputs.structure, tables, changes, rows)
        return proposal

    def _propose(
        self, part: Part, head: Head, hidden: Tensor, needs: Needs, before: Tensor | None, standing: Tensor | None
    ) -> Proposal:
        """What the model would write at some of the positions to predict, from the hidden states (M, D) of all."""
        if part.index is not None:
            hidden = hidden[part.index]
            before = None if before is None else before[part.index]
            standing = None if standing is None else standing[part.index]
        barred = self._growing if part.expands else self._forbidden
        barred = barred | self._stops if part.endless else barred
        sampling = None if part.draws is None else part.draws.sampling()
        blend = None if part.shares is None else Blend(self._embeddings, part.shares)
        return propose(head, hidden, barred, needs, sampling, before, self._kernels, standing, blend)

    def _fed_next(
        self, inputs: StepInputs, proposal: Proposal, standing: Tensor | None, proposed: Proposed, chosen: Choice
    ) -> Tensor | None:
        """What the next pass may be fed at each of the M positions, (M, D); None if no row has an input state."""
        index, of_each = inputs.softened, inputs.window.of_each
        if index is None:
            return proposal.fed
        assert standing is not None
        assert proposal.current is not None
        changed = of_each(chosen.reveal if chosen.write is None else chosen.reveal | chosen.write)[index]
        ids = torch.where(changed, of_each(proposed.ids)[index], standing[index])
        confidence = torch.where(changed, of_each(proposed.confidence)[index], proposal.current[index])
        vectors = self._embeddings.soften(ids, confidence)
        others = vectors.new_zeros(len(standing), vectors.shape[1]) if proposal.fed is None else proposal.fed
        return others.index_copy(0, index, vectors)

    def _needs(self, needs: Needs) -> Needs:
        """The statistics to compute: for a compiled model one of a few sets, so that few kernels are compiled."""
        return widened(needs, len(self._forbidden)) if self.model.compiled else needs

    def _hidden(self, inputs: NetworkInputs, cache: KeyValues, recurs: bool) -> Tensor:
        """Hidden states of the wanted columns (M, D) and of padding. Passes that recur are replayed, except under a
        stopwatch."""
        if self._graphs is None or not recurs or self._watch is not None:
            return self._network.hidden(inputs, cache)
        return self._graphs.run((cache.capacity, cache.start), inputs, partial(self._network.hidden, cache=cache))

    @torch.inference_mode()
    def score(self, questions: Sequence[Question], top: int = 0) -> list[Scored]:
        """Score some canvases in one pass, between steps. `passes` makes lots of the right size.

        Raises NotFiniteError if the model computes NaN.
        """
        lots = [[question] for question in questions] if self._batch_invariant else [questions]
        return [scored for lot in lots for scored in self._score(lot, top)]

    def _score(self, questions: Sequence[Question], top: int) -> list[Scored]:
        inputs = pack_questions(questions, self._architecture, self._shapes)
        hidden = self._network.hidden(to_device(inputs, self.model.device))
        scored = answers(questions, hidden, self._network.head, self._forbidden, top)
        if not all(isfinite(value) for one in scored for value in one.log_probabilities):
            raise NotFiniteError(self.model.precision)
        return scored

    def run(self, requests: Iterable[Request]) -> Iterator[Step]:
        """Submit requests and yield every step until all have ended."""
        for request in requests:
            self.submit(request)
        yield from self.steps()

    def steps(self) -> Iterator[Step]:
        """Yield every step until no request waits or runs."""
        while self.waiting or self.running:
            yield from self.step()

    def results(self, requests: Iterable[Request]) -> dict[str, Result]:
        """The result of each request, by id."""
        return {step.request_id: step.result for step in self.run(requests) if step.result is not None}

    def _admit(self) -> None:
        """Let waiting requests join while there is room. Clients take turns.

        If there is too little memory for the next request, it waits until running ones end, and all others wait after
        it. If they overtook it, a large request might never start.
        """
        now, joining = time.monotonic(), list[Canvas]()
        try:
            while self._waiting and self.running + len(joining) < self._max_rows:
                canvas = self._waiting.first()
                if not self._take_slot(canvas, joining):
                    break
                canvas.started = now
                self._waiting.take(canvas)
                joining.append(canvas)
        finally:  # those that have joined stay, even if the next one fails
            self._join(joining)

    def _take_slot(self, canvas: Canvas, joining: Sequence[Canvas]) -> bool:
        """Whether there is room for one more row; gives it a slot if it keeps keys and values."""
        beside = [] if self._batch_invariant else [row for batch in self._batches for row in batch.canvases]
        beside += [] if self._batch_invariant else joining
        if beside and not self._room.holds([row.request.length for row in (*beside, canvas)]):
            return False
        if canvas.request.cache.name == "none":
            return True
        if not self._slots.has_room(canvas):
            return False
        with memory_for(canvas):
            self._cache.allocate()
        self._slots.take(canvas)
        return True

    def _join(self, joining: Sequence[Canvas]) -> None:
        if not joining:
            return
        if self._batch_invariant:
            self._batches.extend(Batch([canvas]) for canvas in joining)
        elif self._batches:
            self._batches[0].join(joining)
        else:
            self._batches.append(Batch(joining))

    def _leave(self, request_ids: set[str]) -> list[Canvas]:
        """Take out the rows of some requests, and return them."""
        gone = [canvas for batch in self._batches for canvas in batch.leave(lambda row: row.request.id in request_ids)]
        self._prefixes.keep(gone)
        for canvas in gone:
            if canvas.keys.slot is not None:
                self._slots.release(canvas)
        self._batches = deque(batch for batch in self._batches if batch.canvases)
        return gone

    @property
    def _embeddings(self) -> Embeddings:
        """What input states mix."""
        return Embeddings(self._network.table, self.model.mask_id)

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._watch is None else self._watch.phase(name)
