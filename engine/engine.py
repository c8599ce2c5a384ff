"""The decode loop. There is one, and this is it: commands, endpoints, evaluation and training all read its steps."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from engine.caching import check_cache, check_window
from engine.canvas import Canvas
from engine.choosing import Chooser
from engine.errors import NoMemoryError, RequestError
from engine.graphs import GRAPH_TOKENS, Graphs
from engine.plan import Plan, plan_step
from engine.proposal import Kernels, Sampling, propose, widened
from engine.recall import Recall
from engine.recording import CUDARecorder, TapeRecorder
from engine.request import Request, Result, Reveal, Step, check_block_length, check_template
from engine.room import Room
from engine.scoring import Question, Scored, answers, lay_out_questions
from engine.slots import Slots, columns_needed
from engine.stopwatch import Stopwatch
from engine.transfer import as_tensors
from models.cache import KeyValues
from models.loading import Model
from models.memory import is_out_of_memory
from models.spans import Layout, Shapes
from schedulers import Needs

MEMORY_FRACTION = 0.8


class Engine:
    """Runs requests side by side, one forward pass at a time. Not thread-safe; `EngineService` gives it a thread.

    max_rows         requests that run side by side; the others wait
    memory_fraction  share of the memory that is free when the engine is made which keys and values may take; they take
                     it when the first request asks for a cache
    static           whether small passes are padded to a few shapes, captured and replayed; by default where the
                     model is compiled for CUDA
    watch            takes the times of each step

    Requests join and leave at any step, and rows of a batch may differ in everything. A request's result depends on
    its own fields alone, up to the rounding of matrix products, which may differ between batches of different shapes.
    """

    def __init__(
        self,
        model: Model,
        max_rows: int = 64,
        memory_fraction: float = MEMORY_FRACTION,
        static: bool | None = None,
        watch: Stopwatch | None = None,
    ):
        self.model = model
        self._architecture = model.network.architecture
        self._max_rows = max_rows
        # Experts are left out: on some devices their products wait for the host, which no captured graph may.
        capturable = model.device.type == "cuda" and self._architecture.experts is None
        self._static = model.compiled and capturable if static is None else static
        self._recurring = GRAPH_TOKENS if self._static else 0
        self._shapes: Shapes = "uniform" if self._static or model.compiled else "exact"
        self._watch = watch
        rows = self._architecture.vocab_rows
        self._forbidden = torch.arange(rows, device=model.device) >= model.vocab_size
        self._forbidden[model.mask_id] = True
        self._room = Room(model, max_rows, memory_fraction)
        self._cache = KeyValues(self._architecture, self._room.columns, model.device, model.dtype)
        self._kernels = Kernels.of(model.compiled)
        self.reset()

    def reset(self) -> None:
        """Forget every request, waiting or running."""
        self._waiting: deque[Canvas] = deque()
        self._canvases: list[Canvas] = []  # row i of the batch belongs to canvas i
        self._slots = Slots(self._cache, least=1 if self._shapes == "exact" else min(2, self._max_rows))
        self._chooser = Chooser()
        self._recall = Recall()
        cuda = self.model.device.type == "cuda"
        self._graphs = Graphs(CUDARecorder(self.model.device) if cuda else TapeRecorder()) if self._static else None

    @property
    def running(self) -> int:
        """Requests that are rows of the batch."""
        return len(self._canvases)

    @property
    def waiting(self) -> int:
        """Requests that have no row yet."""
        return len(self._waiting)

    @property
    def cache_usage(self) -> float:
        """Share of the memory for keys and values that rows hold, from 0 to 1."""
        return self._slots.usage

    def check(self, request: Request) -> None:
        """Raise RequestError if cache, scheduler, block length or canvas do not fit, or there is no room."""
        check_cache(request.cache, self._architecture)
        check_window(request.scheduler, request.cache, self._architecture)
        check_block_length(request.block_length, self._architecture)
        check_template(request)
        self._room.check(length := request.length)
        if request.cache.name != "none" and columns_needed(length) > self._slots.longest:
            raise RequestError(
                f"cache {str(request.cache)!r} has room for {self._slots.longest} tokens and the request has {length}; "
                "shorten it, use cache none, or raise --memory-fraction",
                "cache",
            )

    def submit(self, request: Request) -> None:
        """Queue a request; it joins at the next step that has room. Raises RequestError."""
        self.check(request)
        model, needs = self.model, request.scheduler.scheduler().needs
        stop_ids = frozenset[int]() if request.ignore_eos else model.stop_ids
        grid, now = self._architecture.block_size, time.monotonic()
        self._waiting.append(Canvas(request, model.tokenizer, stop_ids, model.mask_id, grid, needs, submitted=now))

    def cancel(self, request_id: str) -> Step | None:
        """Drop a request, waiting or running; its last step says so. None if there is no such request."""
        for canvas in [*self._waiting, *self._canvases]:
            if canvas.request.id == request_id:
                self._waiting = deque(other for other in self._waiting if other is not canvas)
                self._retain([other is not canvas for other in self._canvases])
                return canvas.cancelled()
        return None

    @torch.inference_mode()
    def step(self) -> list[Step]:
        """Advance every running request by one forward pass.

        Raises SchedulerError if a scheduler fails, NoMemoryError if the device has too little memory for all rows. If
        the requests that it names are cancelled, the others can go on.
        """
        self._admit()
        if not self._canvases:
            return []
        plan = plan_step(self._canvases, self._architecture, self._cache.capacity, self._shapes, self._recurring)
        outcome = read(self._run(plan), self._canvases)
        steps = [canvas.advance(*change) for canvas, change in zip(self._canvases, outcome, strict=True)]
        if self._chooser.records:
            steps = [replace(step, record=self._chooser.records.get(step.request_id, {})) for step in steps]
        self._retain([step.result is None for step in steps])
        return steps

    def _run(self, plan: Plan) -> Tensor:
        """Decide on the device."""
        if self._watch is not None:
            self._watch.count(len(self._canvases), plan.columns)
        largest = max(reversed(self._canvases), key=lambda canvas: len(canvas.ids))  # of equals, the last to come
        with _memory_for(largest):
            return self._decide(plan, as_tensors({**plan.arrays, **self._chooser.arrays}, self.model.device))

    def _decide(self, plan: Plan, arrays: dict[str, Tensor]) -> Tensor:
        """Forward, propose, choose: what the rows reveal and remask, with ids and confidences, (4, B, W) int32.

        Where rows ask for the K most probable tokens, K more of ids and of probabilities follow: (4 + 2K, B, W).
        """
        with self._phase("model"):
            hidden = self._hidden(plan, arrays)
        with self._phase("statistics"):
            head, sampling, needs = self.model.network.head, Sampling.of(arrays), self._needs()
            at = (self._canvases, hidden, arrays["target"], plan.rows, plan.width)
            before = self._recall.before(*at) if needs.kl else None
            proposal = propose(head, hidden, self._forbidden, needs, sampling, before, self._kernels)
        with self._phase("scheduler"):
            view = plan.view(arrays, proposal)
            reveal, remask = self._chooser.choose(view, arrays["last_pass"].bool(), arrays)
            if needs.kl:
                self._recall.keep(*at)
        decided = [reveal.int(), remask.int(), view.proposal.int(), view.confidence.view(torch.int32)]
        if (told := self._chooser.told) and view.top_ids is not None and view.top_probabilities is not None:
            decided += view.top_ids[..., :told].int().unbind(-1)
            decided += view.top_probabilities[..., :told].contiguous().view(torch.int32).unbind(-1)
        return torch.stack(decided)

    def _needs(self) -> Needs:
        """What to compute for the batch: where it is compiled, one of a few cases."""
        needs = self._chooser.needs
        return widened(needs, len(self._forbidden)) if self.model.compiled else needs

    def _hidden(self, plan: Plan, arrays: dict[str, Tensor]) -> Tensor:
        """Hidden states of the wanted columns (M, D), by a replay where passes recur and nobody times them."""
        if self._graphs is None or not plan.recurs or self._watch is not None:
            return self._forward(plan.layout, arrays, self._cache)[: len(arrays["target"])]
        inputs = {name: arrays[name] for name in plan.layout.arrays}
        key = (tuple(plan.layout.parts.items()), self._cache.capacity)
        hidden = self._graphs.run(key, inputs, partial(self._forward, plan.layout, cache=self._cache))
        return hidden[: len(arrays["target"])]

    def _forward(self, layout: Layout, arrays: dict[str, Tensor], cache: KeyValues | None = None) -> Tensor:
        """Hidden states of the wanted columns (M, D)."""
        return self.model.network(layout.spans(arrays), cache)

    @torch.inference_mode()
    def score(self, questions: Sequence[Question], top: int = 0) -> list[Scored]:
        """Look at some canvases in one pass, beside the decoding; `passes` makes lots of the right size."""
        layout = lay_out_questions(questions, self._architecture, self._shapes)
        hidden = self._forward(layout, as_tensors(layout.arrays, self.model.device))
        return answers(questions, hidden, self.model.network.head, self._forbidden, top)

    def run(self, requests: Iterable[Request]) -> Iterator[Step]:
        """Submit requests and yield every step until all have ended."""
        for request in requests:
            self.submit(request)
        while self.waiting or self.running:
            yield from self.step()

    def results(self, requests: Iterable[Request]) -> dict[str, Result]:
        """The result of each request, by id."""
        return {step.request_id: step.result for step in self.run(requests) if step.result is not None}

    def _admit(self) -> None:
        """Let waiting requests join, first come first served, while there is room."""
        now, before = time.monotonic(), len(self._canvases)
        try:
            while self._waiting and len(self._canvases) < self._max_rows and self._take_slot(self._waiting[0]):
                self._waiting[0].started = now
                self._canvases.append(self._waiting.popleft())
        finally:  # those who have joined stay, whatever becomes of the next
            if len(self._canvases) > before:
                self._chooser.regroup(self._canvases)

    def _take_slot(self, canvas: Canvas) -> bool:
        """Whether there is room for one row more; gives it a slot if it keeps keys and values."""
        if self._canvases and not self._room.holds([len(other.ids) for other in (*self._canvases, canvas)]):
            return False
        if canvas.request.cache.name == "none":
            return True
        if not self._slots.has_room(canvas):
            return False
        with _memory_for(canvas):
            self._cache.allocate()
        self._slots.take(canvas)
        return True

    def _retain(self, keep: list[bool]) -> None:
        """Let the rows leave whose flag is false."""
        if all(keep):
            return
        for canvas, stays in zip(self._canvases, keep, strict=True):
            if not stays and canvas.slot is not None:
                self._slots.release(canvas)
        self._canvases = [canvas for canvas, stays in zip(self._canvases, keep, strict=True) if stays]
        self._chooser.regroup(self._canvases)

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext() if self._watch is None else self._watch.phase(name)


def read(decided: Tensor, canvases: Sequence[Canvas]) -> list[tuple[tuple[Reveal, ...], tuple[int, ...]]]:
    """What each row revealed and remasked: the step's one transfer to the host."""
    revealed, remasked, ids, bits, *tops = decided.cpu().numpy()
    probabilities = bits.view("float32")
    told = len(tops) // 2
    top_ids, top_probabilities = tops[:told], [plane.view("float32") for plane in tops[told:]]
    outcome = []
    for row, canvas in enumerate(canvases):
        start, _ = canvas.window
        columns = revealed[row].nonzero()[0]
        chosen = zip(columns.tolist(), ids[row, columns].tolist(), probabilities[row, columns].tolist(), strict=True)
        asked = canvas.request.top_logprobs
        best = [list(zip(top_ids[k][row], top_probabilities[k][row], strict=True)) for k in range(asked)]  # (K, W)
        reveals = tuple(
            Reveal(
                start + column, token, p, canvas.step, tuple((int(id), float(q)) for id, q in (b[column] for b in best))
            )
            for column, token, p in chosen
        )
        back = start + remasked[row].nonzero()[0]
        outcome.append((reveals, tuple(back[~canvas.pinned[back]].tolist())))
    return outcome


@contextmanager
def _memory_for(canvas: Canvas) -> Iterator[None]:
    """Say that it was this request for which the memory did not suffice, if it does not."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise NoMemoryError(canvas.request.id, len(canvas.ids)) from error
        raise
