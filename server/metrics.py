"""What Prometheus reads: vLLM's stems under our own prefix, and by scheduler what only a diffusion model has."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from engine.request import Request, Result, Step
from engine.service import EngineError

# Seconds: from a small model on a CPU to a long canvas behind a full queue.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_TOKENS_PER_STEP = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64)


class Metrics:
    """The metrics of one app, in a registry of its own.

    running, waiting   read at each scrape: rows of the batch, and requests without a row
    """

    def __init__(self, running: Callable[[], float], waiting: Callable[[], float]):
        self._registry = registry = CollectorRegistry()
        by = ("scheduler",)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"unmask_{name}", help, by, buckets=buckets, registry=registry)

        def counter(name: str, help: str, labels: tuple[str, ...]) -> Counter:
            return Counter(f"unmask_{name}", help, labels, registry=registry)

        def gauge(name: str, help: str, read: Callable[[], float]) -> None:
            Gauge(f"unmask_{name}", help, registry=registry).set_function(read)

        self._http = counter("http_requests", "HTTP responses", ("method", "path", "status"))
        self._requests = counter("requests", "generations that ended", ("scheduler", "finish_reason"))
        self._prompt_tokens = counter("prompt_tokens", "tokens of prompts", by)
        self._tokens = counter("generation_tokens", "generated tokens before the end of the text", by)
        self._passes = counter("forward_passes", "forward passes, as each request sees them", by)
        self._steps = histogram("request_steps", "steps of a generation", _STEPS)
        self._tokens_per_step = histogram("tokens_per_step", "generated tokens for each step", _TOKENS_PER_STEP)
        self._queue = histogram("request_queue_time_seconds", "from submission to the first step", _SECONDS)
        self._first = histogram("time_to_first_token_seconds", "from submission to the first settled text", _SECONDS)
        self._whole = histogram("e2e_request_latency_seconds", "from submission to the end", _SECONDS)
        gauge("num_requests_running", "requests in the batch", running)
        gauge("num_requests_waiting", "requests that wait for a row", waiting)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_http(self, method: str, path: str, status: int) -> None:
        """Count a response; `path` is the route, not the address, so that labels stay few."""
        self._http.labels(method, path, str(status)).inc()

    def follow(self, request: Request) -> Callable[[Step | EngineError], None]:
        """A listener that records one generation: feed it every event of the request."""
        submitted = time.monotonic()
        settled = False

        def listen(event: Step | EngineError) -> None:
            nonlocal settled
            name, elapsed = request.scheduler.name, time.monotonic() - submitted
            if isinstance(event, EngineError):
                self._requests.labels(name, "error").inc()
                return
            if event.text and not settled:
                settled = True
                self._first.labels(name).observe(elapsed)
            if event.result is not None:
                self._record(name, event.result, elapsed)

        return listen

    def _record(self, scheduler: str, result: Result, elapsed: float) -> None:
        self._requests.labels(scheduler, result.finish_reason).inc()
        self._prompt_tokens.labels(scheduler).inc(result.prompt_tokens)
        self._tokens.labels(scheduler).inc(result.generated)
        self._passes.labels(scheduler).inc(result.forward_passes)
        self._queue.labels(scheduler).observe(result.queue_seconds)
        self._whole.labels(scheduler).observe(elapsed)
        if result.forward_passes:
            self._steps.labels(scheduler).observe(result.forward_passes)
            self._tokens_per_step.labels(scheduler).observe(result.generated / result.forward_passes)
