"""The model behind the server: loading, ready, or failed."""

import asyncio
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from unmask.engine.caching import NO_CACHE, check_needs, choose_cache
from unmask.engine.engine import Engine
from unmask.engine.errors import RequestError
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
from unmask.models.loading import Model, load_configured
from unmask.schedulers import Needs, SchedulerSpec, parse_scheduler, scheduler_names
from unmask.server.bodies import MOST_BYTES, default_body_bytes
from unmask.server.caller import Caller
from unmask.server.errors import NotReadyError
from unmask.server.metrics import Metrics
from unmask.server.settings import ServeSettings
from unmask.server.streams import Generations
from unmask.server.vllm_metrics import VLLMMetrics
from unmask.server.workers import Workers

if TYPE_CHECKING:
    from unmask.server.tracing import Tracing

log = logging.getLogger(__name__)

WARM_UP_TOKENS = 64  # of the prompt, and to generate
WARM_UP_ROWS = 16
WORKERS = 8
WARM_UP_LOGPROBS = (1, 2, 3)  # numbers of tokens that have kernels of their own: one, two, many


class Backend:
    """Loads the model on a thread, warms it up, and takes requests from then on.

    on_ready    called on that thread when the model has answered for the first time
    on_failure  called on it when the model cannot be loaded or does not answer
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
        self.workers = Workers(WORKERS)
        self._loader = threading.Thread(target=self._load, name="load", daemon=True)
        self.error: BaseException | None = None
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._ready = False
        self._stopping = False
        self._draining = False
        self._lock = threading.Lock()
        self._turn = asyncio.Lock()  # to score
        self._asking = 0

    def start(self) -> None:
        """Begin to load. Returns at once."""
        self.workers.start()
        self._loader.start()

    def drain(self) -> None:
        """Refuse requests from now on; those that run or wait go on."""
        self._draining = True

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def load(self) -> int:
        """Requests of clients that run or wait."""
        return self.service.running + self.service.waiting + self._asking if self.service and self._ready else 0

    @property
    def busy(self) -> bool:
        """Whether a thread is at work: at a load, at a step, or at reading a request."""
        return self._loader.is_alive() or (self.service is not None and self.service.alive) or self.workers.seconds > 0

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Cancel what runs and end the engine, which may take so long. What is under way then is left behind."""
        with self._lock:
            self._stopping = True
        if self.service is not None:
            self.service.stop(seconds)
        self.workers.stop()
        if self.tracing is not None:
            self.tracing.stop()

    def check_health(self) -> None:
        """Raise NotReadyError if the model could not be loaded, or its engine has ended: it never will answer."""
        if self.error is not None:
            raise NotReadyError(f"the model is not running: {self.error}")
        if self.service is not None and not self.service.alive:
            raise NotReadyError("the model is not running: its engine has ended; restart the server")
        if self.service is not None and self.service.step_seconds > self.settings.step_timeout:
            raise NotReadyError(
                f"the model is not running: a step has taken more than {self.settings.step_timeout:g} seconds; "
                "restart the server"
            )
        if self.workers.seconds > self.settings.step_timeout:
            raise NotReadyError(
                "the server is not well: to read a request, or render the chat template, has taken more than "
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
        return self.settings.served_model_name or model.name

    @property
    def max_body_bytes(self) -> int:
        """The largest body that is read."""
        if self.settings.max_body_bytes is not None:
            return self.settings.max_body_bytes
        if self.service is None:  # a request that comes this early is told to wait
            return MOST_BYTES
        return default_body_bytes(self.service.engine.model.max_positions, self.settings.max_waiting)

    def _name(self) -> str:
        """The same, whether it is ready or not; empty until it is loaded."""
        return self.settings.served_model_name or (self.service.engine.model.name if self.service else "")

    def submit(self, requests: Sequence[Request], every_step: bool, caller: Caller) -> Generations:
        """Run the requests of one caller; without `every_step` only their last steps come.

        Callers take turns with each other, and first of all those with one API key with those with another.

        Raises NotReadyError, RequestError, QueueFullError or EngineStoppedError.
        """
        self.metrics.count_choices(len(requests))
        client = (caller.key, uuid.uuid4().hex)
        requests = [replace(request, client=client) for request in requests]
        try:
            return Generations(self._engine(), self._follow, requests, every_step, caller.deadline)
        except QueueFullError:
            self.metrics.count_rejection("queue_full")
            raise

    def metrics_text(self) -> bytes:
        """The metrics in Prometheus' text format, also under other names if the settings ask for them."""
        return self.metrics.text() + (self._vllm.text() if self.settings.metrics_compat == "vllm" else b"")

    def _follow(self, request: Request) -> OnStep:
        """Records every event of a request."""
        listeners = [self.metrics.follow(request)]
        if self.tracing is not None:
            listeners.append(self.tracing.follow(request))

        def listen(event: Step | EngineError) -> None:
            for listener in listeners:
                listener(event)

        return listen

    async def score(self, questions: Sequence[Question], top: int = 0) -> list[Scored]:
        """Look at canvases in plain passes, one between two steps, and one caller after another.

        Raises NotReadyError, QueueFullError, EngineStoppedError or EngineError.
        """
        service, scored = self._engine(), list[Scored]()
        if self._asking >= self.settings.max_waiting:
            self.metrics.count_rejection("queue_full")
            raise QueueFullError(f"{self._asking} requests wait to be scored, the most allowed; try again later")
        self._asking += 1
        try:
            for lot in passes(questions):
                async with self._turn:
                    work = partial(Engine.score, questions=lot, top=top)
                    scored += await asyncio.wrap_future(service.call(work))
        finally:
            self._asking -= 1
        return scored

    def _engine(self) -> EngineService:
        if self._stopping or self._draining:
            raise EngineStoppedError("the server is going down; send the request again later")
        self.check_health()
        if self.service is None or not self._ready:
            raise NotReadyError("the model is still loading; try again when /ready answers 200")
        return self.service

    def _make_tracing(self) -> "Tracing":
        from unmask.server.tracing import Tracing  # the extra is there: the settings have looked

        return Tracing(self._name)

    def _load(self) -> None:
        try:
            settings = self.settings
            model = _limited(load_configured(settings, settings.chat_template), settings.max_model_len)
            engine = Engine(
                model, settings.max_rows, settings.memory_fraction, batch_invariant=settings.batch_invariant
            )
            choose_cache(settings.cache, model.network.architecture)  # a wrong default fails now, not each request
            service = EngineService(engine, settings.max_waiting, self.metrics.count_pass)
            with self._lock:
                if self._stopping:
                    return
                service.start()
                self.service = service
            self._warm_up(model, service)
        except BaseException as error:  # whatever it was, the server must say so and not wait for ever
            if not self._stopping:
                self.error = error
                self._on_failure(error)
        else:
            self._ready = True
            self._on_ready(model)

    def _warm_up(self, model: Model, service: EngineService) -> None:
        """Some short generations, so that the first clients do not wait for what happens once only."""
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
        """What to run one after another: every case that is compiled for itself, and one pass where none is.

        First as many rows as may run side by side, of a usual size: code that is compiled is made for the sizes it
        sees. Blocks of one and of two tokens let rows with fresh keys and with cached ones meet, and fall apart again;
        in the end one row is left alone. Then one row for each kind of statistics that an installed scheduler needs,
        and for each number of tokens that log-probabilities may be asked for, without entropy and with it.
        """
        a = model.network.architecture
        prompt = (0,) * min(WARM_UP_TOKENS, model.max_positions // 2)
        length = min(WARM_UP_TOKENS, model.max_positions - len(prompt))
        one = Request(
            id="warm-up",
            prompt=prompt,
            max_tokens=length,
            block_length=fit_block_length(length, length, a),
            scheduler=parse_scheduler(self.settings.default_scheduler),
            cache=choose_cache(self.settings.cache, a),
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
        told = [
            replace(one, scheduler=spec, cache=NO_CACHE, top_logprobs=k)
            for spec in (one.scheduler, *entropy)
            for k in WARM_UP_LOGPROBS
        ]
        return [together, *([request] for request in (*others, *told))]


def _kinds_of_schedulers(a: Architecture) -> list[SchedulerSpec]:
    """Installed schedulers for a model, one for each kind of needs; one that cannot be made is left to who asks for
    it."""
    kinds: dict[Needs, SchedulerSpec] = {}
    for name in scheduler_names():
        with suppress(Exception):
            spec = parse_scheduler(name)
            check_needs(spec, NO_CACHE, a)
            kinds.setdefault(spec.needs(), spec)
    return list(kinds.values())


def _limited(model: Model, max_model_len: int | None) -> Model:
    """The model, made to take no longer canvas. Raises RequestError if it cannot take one so long."""
    longest = model.max_positions if max_model_len is None else max_model_len
    if longest > model.max_positions:
        message = f"max_model_len {longest} is more than the {model.max_positions} positions of the model; give less"
        raise RequestError(message, "max_model_len")
    return replace(model, max_positions=longest)
