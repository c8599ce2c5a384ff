"""The metrics for Prometheus: vLLM's names and buckets with the prefix `unmask_`, by scheduler where they differ."""

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from unmask.engine.request import FinishReason, Request, Result, Step
from unmask.engine.service import EngineError
from unmask.server.ops.timeline import Timeline

# Upper bounds of buckets: vLLM's, so that its dashboards and alerts fit.
LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
# fmt: off
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)
# fmt: on
BETWEEN_TOKENS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
ITERATION_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
CHOICES = (1, 2, 5, 10, 20)
TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
# Those that other servers do not have.
STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SHARES = (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
TOKENS_PER_STEP = (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32, 64)

REASONS: dict[FinishReason, str] = {"stop": "stop", "length": "length", "cancelled": "abort"}  # in vLLM's words


class Metrics:
    """The metrics of one app, in a registry of its own.

    running      rows of the batch; this and the next two are read at each scrape
    waiting      requests without a row
    cache_usage  share of the cache that is taken
    """

    def __init__(
        self, running: Callable[[], float], waiting: Callable[[], float], cache_usage: Callable[[], float]
    ) -> None:
        self.registry = registry = CollectorRegistry()
        by = ("scheduler",)

        def histogram(
            name: str, help: str, buckets: Sequence[float] = LATENCY, labels: tuple[str, ...] = by
        ) -> Histogram:
            return Histogram(f"unmask_{name}", help, labels, buckets=buckets, registry=registry)

        def counter(name: str, help: str, labels: tuple[str, ...] = by) -> Counter:
            return Counter(f"unmask_{name}", help, labels, registry=registry)

        def gauge(name: str, help: str, read: Callable[[], float]) -> None:
            Gauge(f"unmask_{name}", help, registry=registry).set_function(read)

        gauge("num_requests_running", "requests in the batch", running)
        gauge("num_requests_waiting", "requests that wait for a row", waiting)
        gauge("kv_cache_usage_perc", "share of the cache that rows hold, 1 for all", cache_usage)
        ProcessCollector(registry=registry)

        self._http = counter("http_requests", "HTTP responses", ("method", "path", "status"))
        self._rejected = counter("admission_rejections", "requests that were refused", ("reason",))
        self._n = histogram("request_params_n", "choices that a request asks for", CHOICES, ())
        self._ended = counter("request_success", "generations that ended", ("scheduler", "finished_reason"))
        self._prompt_tokens = counter("prompt_tokens", "tokens of prompts")
        self._queried = counter("prefix_cache_queries", "tokens of prompts whose first blocks were looked for", ())
        self._found = counter("prefix_cache_hits", "those that needed no pass: their blocks had been computed", ())
        self._tokens = counter("generation_tokens", "generated tokens before the end of the text")
        self._prompt_size = histogram("request_prompt_tokens", "tokens of a prompt", TOKENS)
        self._size = histogram("request_generation_tokens", "generated tokens before the end of the text", TOKENS)
        self._max_tokens = histogram("request_params_max_tokens", "length of a generation region", TOKENS)

        self._first = histogram("time_to_first_token_seconds", "submission to the first settled text", FIRST_TOKEN)
        self._between = histogram("inter_token_latency_seconds", "between two growths of settled text", BETWEEN_TOKENS)
        self._each = histogram("request_time_per_output_token_seconds", "generation over its tokens", BETWEEN_TOKENS)
        self._queue = histogram("request_queue_time_seconds", "submission to the start of the first pass")
        self._prefill = histogram("request_prefill_time_seconds", "the first pass, which computes the prompt")
        self._decode = histogram("request_decode_time_seconds", "the passes after the first")
        self._inference = histogram("request_inference_time_seconds", "the start of the first pass to the end")
        self._whole = histogram("e2e_request_latency_seconds", "submission to the end")

        self._passes = counter("forward_passes", "forward passes, as each request sees them")
        self._positions = counter("canvas_positions", "positions of the current block, summed over passes")
        self._revealed = counter("revealed_tokens", "masks turned into tokens")
        self._remasked = counter("remasked_tokens", "tokens turned back into masks")
        self._blocks = counter("blocks", "blocks without a mask left")
        self._steps = histogram("request_steps", "steps of a generation", STEPS)
        self._tokens_per_step = histogram("tokens_per_step", "generated tokens for each step", TOKENS_PER_STEP)
        self._speed = histogram("auto_speed", "speed that the load chose, 0 careful and 1 fast", SHARES)
        self._pass_tokens = histogram("iteration_tokens", "tokens that one pass revealed", ITERATION_TOKENS, ())
        self._pass_rows = histogram("iteration_rows", "requests that one pass advanced", STEPS, ())

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def count_http(self, method: str, path: str, status: int) -> None:
        """Count a response; `path` is the route, not the address, so that labels stay few."""
        self._http.labels(method, path, str(status)).inc()

    def count_rejection(self, reason: str) -> None:
        """Count a request that was refused."""
        self._rejected.labels(reason).inc()

    def count_choices(self, choices: int) -> None:
        """Count what one HTTP request asks for."""
        self._n.observe(choices)

    def count_pass(self, steps: Sequence[Step]) -> None:
        """Count one forward pass of the engine, by the steps that its rows made."""
        if steps:
            self._pass_rows.observe(len(steps))
            self._pass_tokens.observe(sum(len(step.revealed) for step in steps))

    def count_event(self, timeline: Timeline, event: Step | EngineError) -> None:
        """Count one event of a generation, which its timeline has taken."""
        request, name = timeline.request, timeline.request.scheduler.name
        if isinstance(event, EngineError):
            self._ended.labels(name, "error").inc()
            return
        if timeline.gap is not None:
            (self._first if timeline.texts == 1 else self._between).labels(name).observe(timeline.gap)
        self._count_step(request, event)
        if event.result is not None:
            self._record(timeline, event.result)

    def _count_step(self, request: Request, step: Step) -> None:
        if step.result is not None and step.result.finish_reason == "cancelled":  # a step without a forward pass
            return
        name, start = request.scheduler.name, step.block * request.block_length
        self._passes.labels(name).inc()
        self._positions.labels(name).inc(min(request.block_length, max(request.max_tokens - start, 0)))
        self._revealed.labels(name).inc(len(step.revealed))
        self._remasked.labels(name).inc(len(step.remasked))
        self._blocks.labels(name).inc(step.ended)

    def _record(self, timeline: Timeline, result: Result) -> None:
        """Count a generation that has ended."""
        request, scheduler = timeline.request, timeline.request.scheduler.name
        self._ended.labels(scheduler, REASONS[result.finish_reason]).inc()
        if not result.forward_passes:
            return
        tokens, seconds = result.generated, result.generate_seconds
        self._prompt_tokens.labels(scheduler).inc(result.prompt_tokens)
        self._tokens.labels(scheduler).inc(tokens)
        if result.cached_tokens is not None:
            self._queried.inc(result.prompt_tokens)
            self._found.inc(result.cached_tokens)
        prefill = max(timeline.first_pass - timeline.submitted - result.queue_seconds, 0)
        for histogram, value in (
            (self._prompt_size, result.prompt_tokens),
            (self._size, tokens),
            (self._max_tokens, request.max_tokens),
            (self._queue, result.queue_seconds),
            (self._prefill, prefill),
            (self._decode, max(seconds - prefill, 0)),
            (self._inference, seconds),
            (self._whole, timeline.last - timeline.submitted),
            (self._steps, result.forward_passes),
            (self._tokens_per_step, tokens / result.forward_passes),
        ):
            histogram.labels(scheduler).observe(value)
        if result.speed is not None:
            self._speed.labels(scheduler).observe(result.speed)
        if tokens:
            self._each.labels(scheduler).observe(seconds / tokens)
