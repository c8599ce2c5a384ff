"""The model that the server serves: loading, ready, or failed."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from unmask.engine.caching import NO_CACHE, check_needs, choose_cache
from unmask.engine.engine import Engine
from unmask.engine.errors import RequestError
from unmask.engine.fit import Fit, fit_of_loaded
from unmask.engine.input_state import choose_input_state
from unmask.engine.ranks.group import Ranks
from unmask.engine.ranks.start import loading, start_ranks
from unmask.engine.request import Request, Step, fit_block_length
from unmask.engine.scoring import Question, Scored, passes
from unmask.engine.service import (
    STOP_SECONDS,
    EngineError,
    EngineService,
    EngineStoppedError,
    ModelNotFiniteError,
    OnStep,
    QueueFullError,
)
from unmask.models.architecture import Architecture
from unmask.models.errors import CheckpointError
from unmask.models.loading import Model, load_configured
from unmask.schedulers import Needs, SchedulerSpec, parse_scheduler, parse_scheduler_text, scheduler_names
from unmask.server.caller import Caller
from unmask.server.errors import NotReadyError
from unmask.server.generations import Generations
from unmask.server.ops.metrics import Metrics
from unmask.server.ops.timeline import Timeline
from unmask.server.ops.vllm_metrics import VLLMMetrics
from unmask.server.parse.bodies import MOST_BYTES, default_body_bytes
from unmask.server.parse.context import Context
from unmask.server.settings import ServeSettings
from unmask.server.tools.calling import Calling
from unmask.server.turns import Turns
from unmask.server.workers import Workers

if TYPE_CHECKING:
    from unmask.server.ops.tracing import Tracing

log = logging.getLogger(__name__)

B = TypeVar("B")
T = TypeVar("T")

WARM_UP_TOKENS = 64  # of the prompt, and to generate
WARM_UP_ROWS = 16
WORKERS = 8
WARM_UP_LOGPROBS = (1, 2, 3)  # numbers of tokens that have kernels of their own: one, two, many


class Backend:
    """Loads the model on a thread, warms it up, and then takes requests.

    on_ready    called on that thread after the first answer of the model
    on_failure  called on that thread if the model cannot be loaded or does not answer
    """

    def __init__(
        self, settings: ServeSettings, on_ready: Callable[[Model], None], on_failure: Callable[[BaseException], None]
    ):
        self.settings = settings
        self.metrics = Metrics(
            running=lambda: self.service.running if self.service else 0,
            waiting=lambda: self.service.waiting if self.service else 0,
            cache_usage=lambda: self.service.engine.cache_usage if self.service else 0,
        )
        self._vllm = VLLMMetrics(self.metrics.registry, self._name)
        self.tracing = self._make_tracing() if settings.otel else None
        self.created = int(time.time())
        self.service: EngineService | None = None
        self._ranks: Ranks | None = None  # until the model loads, and of one that is not split
        self.fit: Fit | None = None  # until the model is loaded
        self.workers = Workers(WORKERS)
        self._loader = threading.Thread(target=self._load, name="load", daemon=True)
        self.error: BaseException | None = None
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._ready = False
        self._stopping = False
        self._draining = False
        self._lock = threading.Lock()
        self._turn = asyncio.Lock()  # held by the caller that scores
        self._scoring = 0  # callers that score or wait for their turn

    def start(self) -> None:
        """Start to load the model; does not wait for it."""
        self.workers.start()
        self._loader.start()

    def drain(self) -> None:
        """Refuse new requests. Those that run or wait continue."""
        self._draining = True

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def load(self) -> int:
        """How many requests of clients run or wait."""
        return self.service.running + self.service.waiting + self._scoring if self.service and self._ready else 0

    @property
    def busy(self) -> bool:
        """Whether a thread is busy: it loads the model, runs a step, or reads a request."""
        return self._loader.is_alive() or (self.service is not None and self.service.alive) or self.workers.seconds > 0

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Cancel all requests and stop the engine. A step that takes more than these seconds is not waited for."""
        with self._lock:
            self._stopping = True
        if self.service is not None:
            self.service.stop(seconds)
        self.workers.stop()
        if self._ranks is not None:
            self._ranks.close()
        if self.tracing is not None:
            self.tracing.stop()

    def check_health(self) -> None:
        """Raise NotReadyError if the server cannot recover: the model did not load, or the engine stopped or hangs."""
        if self.error is not None:
            raise NotReadyError(f"the model is not running: {self.error}")
        if self._ranks is not None and self._ranks.lost is not None:
            raise NotReadyError(f"the model is not running: {self._ranks.lost}; restart the server")
        if self.service is not None and not self.service.alive:
            raise NotReadyError("the model is not running: its engine has ended; restart the server")
        if self.service is not None and self.service.step_seconds > self.settings.step_timeout:
            raise NotReadyError(
                f"the model is not running: a step has taken more than {self.settings.step_timeout:g} seconds; "
                "restart the server"
            )
        if self.workers.seconds > self.settings.step_timeout:
            raise NotReadyError(
                "the server hangs: reading a request, or rendering the chat template, has taken more than "
                f"{self.settings.step_timeout:g} seconds; restart it"
            )

    @property
    def model(self) -> Model:
        """The model, once it is ready; raises NotReadyError before."""
        return self._engine().engine.model

    @property
    def model_name(self) -> str:
        """The model's name in the API; raises NotReadyError until the model is ready."""
        model = self.model
        return self.settings.served_model_name or model.merged or model.name

    @property
    def model_names(self) -> list[str]:
        """The model's name in the API, and those of its adapters; raises NotReadyError until the model is ready."""
        return [self.model_name, *self.model.adapters]

    @property
    def max_body_bytes(self) -> int:
        """The size of the largest body that is read, in bytes."""
        if self.settings.max_body_bytes is not None:
            return self.settings.max_body_bytes
        if self.service is None:  # a request this early is refused in any case
            return MOST_BYTES
        return default_body_bytes(self.service.engine.model.max_positions, self.settings.max_waiting)

    def _name(self) -> str:
        """The model's name in the API, also before it is ready; empty until it is loaded."""
        if self.settings.served_model_name or self.service is None:
            return self.settings.served_model_name or ""
        model = self.service.engine.model
        return model.merged or model.name

    async def parse(self, parse: Callable[[B, Context], T], body: B, caller: Caller) -> T:
        """What `parse` makes of a body, on a thread. Raises what it raises, NotReadyError, DeadlineError or
        ClientLeftError."""
        adapters = self.model.adapters
        adapter = adapters.index(caller.model) if caller.model in adapters else None
        context = Context(self.model, self.settings, caller.client, adapter, caller.ends)
        return await caller.wait(self.workers.run(parse, body, context))

    async def submit(
        self, requests: Sequence[Request], every_step: bool, caller: Caller, calling: Calling | None = None
    ) -> Generations:
        """Prepare the requests of one caller on a thread and run them; without `every_step` only their last steps come.

        calling  the tools that the answers may call

        Raises NotReadyError, RequestError, SchedulerError, QueueFullError, EngineStoppedError, DeadlineError or
        ClientLeftError.
        """
        self.metrics.count_choices(len(requests))
        engine = self._engine().engine
        turns = None if calling is None else Turns(calling, requests, engine, self.workers)
        begin = turns.begin if turns else lambda: [engine.prepare(request) for request in requests]
        canvases = await caller.wait(self.workers.run(begin))
        try:
            return Generations(self._engine(), self._follow, canvases, every_step, caller.deadline, turns)
        except QueueFullError:
            self.metrics.count_rejection("queue_full")
            raise

    def metrics_text(self) -> bytes:
        """The metrics in Prometheus' text format, also under other names if the settings ask for them."""
        return self.metrics.text() + (self._vllm.text() if self.settings.metrics_compat == "vllm" else b"")

    def _follow(self, request: Request) -> OnStep:
        """A listener that records every event of a request, for the metrics and the traces."""
        timeline, tracing = Timeline(request), self.tracing
        span = None if tracing is None else tracing.start(timeline)

        def listen(event: Step | EngineError) -> None:
            timeline.take(event)
            self.metrics.count_event(timeline, event)
            if tracing is not None and span is not None:
                tracing.end(span, timeline, event)

        return listen

    async def score(self, questions: Sequence[Question], top: int = 0) -> list[Scored]:
        """Score canvases in plain passes, one pass between two steps. Callers take turns.

        Raises NotReadyError, QueueFullError, EngineStoppedError or EngineError.
        """
        service, scored = self._engine(), list[Scored]()
        if self._scoring >= self.settings.max_waiting:
            self.metrics.count_rejection("queue_full")
            raise QueueFullError(f"{self._scoring} requests wait to be scored, which is the limit; try again later")
        self._scoring += 1
        try:
            for lot in passes(questions):
                async with self._turn:
                    work = partial(Engine.score, questions=lot, top=top)
                    scored += await asyncio.wrap_future(service.call(work))
        finally:
            self._scoring -= 1
        return scored

    def _engine(self) -> EngineService:
        if self._stopping or self._draining:
            raise EngineStoppedError("the server is going down; send the request again later")
        self.check_health()
        if self.service is None or not self._ready:
            raise NotReadyError("the model is still loading; try again when /ready answers 200")
        return self.service

    def _make_tracing(self) -> "Tracing":
        from unmask.server.ops.tracing import Tracing  # the settings have checked that the extra is installed

        return Tracing(self._name)

    def _load(self) -> None:
        try:
            settings = self.settings
            model = _limited(self._load_model(), settings.max_model_len)
            _check_names(settings.served_model_name or model.name, model)
            self.fit = fit_of_loaded(model, settings.max_rows, settings.memory_fraction)
            engine = Engine(
                model,
                settings.max_rows,
                settings.memory_fraction,
                batch_invariant=settings.batch_invariant,
                prefix_reuse=settings.prefix_reuse,
                ranks=self._ranks,
            )
            choose_cache(settings.cache, model.network.architecture)  # a wrong default fails now, not each request
            service = EngineService(engine, settings.max_waiting, self.metrics.count_pass)
            with self._lock:
                if self._stopping:
                    return
                service.start()
                self.service = service
            self._warm_up(model, service)
        except BaseException as error:  # anything: the server must report it
            if not self._stopping:
                self.error = error
                self._on_failure(error)
        else:
            self._ready = True
            self._on_ready(model)

    def _load_model(self) -> Model:
        """The model, or the part of it that this process has beside other ranks."""
        s = self.settings
        self._ranks = start_ranks(s.tensor_parallel, s.device, s.quantization, s.compile, bool(s.lora))
        with loading(self._ranks, s.model, s.revision, s.dtype) as split:
            return load_configured(s, s.chat_template, split)

    def _warm_up(self, model: Model, service: EngineService) -> None:
        """Run some short generations, so that the first clients do not wait for work that is done once."""
        wait = "; its kernels are compiled, which takes minutes the first time and less later" if model.compiled else ""
        log.info("warming up%s", wait)
        ends: queue.SimpleQueue[Step | EngineError] = queue.SimpleQueue()

        def listen(event: Step | EngineError) -> None:
            if isinstance(event, EngineError) or event.result is not None:
                ends.put(event)

        for requests in self._warm_up_lots(model):
            for request in requests:
                service.submit(request, listen)
            for event in (ends.get() for _ in requests):
                if isinstance(event, ModelNotFiniteError) or (isinstance(event, EngineError) and not model.compiled):
                    raise event
                if isinstance(event, EngineError):
                    raise EngineError(f"{event}; if it is the compiling that fails, use --no-compile")

    def _warm_up_lots(self, model: Model) -> list[list[Request]]:
        """The requests of the warm-up, in lots that run one after another; a single pass if nothing is compiled.

        Code is compiled for the sizes that it meets, so the first lot has as many rows as may run side by side, of a
        usual size. Its blocks of one and two tokens mix rows with fresh and with cached keys; at the end one row is
        left. Then follows one row for each kind of statistics that an installed scheduler needs, and for each number
        of log-probabilities, without entropy and with it.
        """
        a = model.network.architecture
        prompt = (0,) * min(WARM_UP_TOKENS, model.max_positions // 2)
        length = min(WARM_UP_TOKENS, model.max_positions - len(prompt))
        one = Request(
            id="warm-up",
            prompt=prompt,
            max_tokens=length,
            block_length=fit_block_length(length, length, a),
            scheduler=parse_scheduler_text(self.settings.default_scheduler),
            cache=choose_cache(self.settings.cache, a),
            input_state=choose_input_state(self.settings.input_state, model),
            max_forward_passes=1,
        )
        if not model.compiled:
            return [[one]]
        rows = min(self.settings.max_rows, WARM_UP_ROWS)
        together = [
            replace(
                one,
                id=f"warm-up-{row}",
                block_length=fit_block_length(1 + row % 2, length, a),
                temperature=float(row % 4 == 0),
                max_forward_passes=8 if row == rows - 1 else 2 + 2 * (row % 2),
            )
            for row in range(rows)
        ]
        kinds = _kinds_of_schedulers(a)
        others = [replace(one, scheduler=spec, cache=NO_CACHE, max_forward_passes=2) for spec in kinds]
        entropy = [spec for spec in kinds if spec.needs().entropy][:1]
        with_logprobs = [
            replace(one, scheduler=spec, cache=NO_CACHE, top_logprobs=k)
            for spec in (one.scheduler, *entropy)
            for k in WARM_UP_LOGPROBS
        ]
        return [together, *([request] for request in (*others, *with_logprobs))]


def _kinds_of_schedulers(a: Architecture) -> list[SchedulerSpec]:
    """Installed schedulers for a model, one for each kind of needs. One that cannot be made is logged and left out."""
    kinds: dict[Needs, SchedulerSpec] = {}
    for name in scheduler_names():
        try:
            spec = parse_scheduler(name)
            check_needs(spec, NO_CACHE, a)
        except (Exception, SystemExit) as error:
            log.warning("scheduler %r is not warmed up: %s", name, error)
        else:
            kinds.setdefault(spec.needs(), spec)
    return list(kinds.values())


def _check_names(name: str, model: Model) -> None:
    """Raise CheckpointError for an adapter that is called as the model is: requests could not say which they mean."""
    if name in model.adapters:
        raise CheckpointError(
            f"an adapter and the model are both called {name!r}; name the adapter in --lora as FOLDER=ANOTHER, or the "
            "model by --served-model-name"
        )


def _limited(model: Model, max_model_len: int | None) -> Model:
    """The model with a bound on the length of a canvas. Raises RequestError if the bound is above the model's own."""
    longest = model.max_positions if max_model_len is None else max_model_len
    if longest > model.max_positions:
        message = f"max_model_len {longest} is more than the {model.max_positions} positions of the model; give less"
        raise RequestError(message, "max_model_len")
    return replace(model, max_positions=longest)
