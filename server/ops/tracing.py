"""Traces for OpenTelemetry: a span for each generation, and in it the queue, the first pass and the blocks.

Where they go, how many are kept and under which service they stand, OpenTelemetry's own variables say:
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME. This module needs the extra `otel`.
"""

import os
import time
from collections.abc import Callable

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unmask.engine.request import Request, Result, Step
from unmask.engine.service import EngineError
from unmask.server.ops.metrics import REASONS

MAX_BLOCKS = 100  # spans of blocks in one generation; the later ones are counted only
_REQUEST_ID = context.create_key("request-id")
_NANO = 1_000_000_000


class Tracing:
    """Makes spans and sends them on a thread of its own. Nothing of prompts or answers is in them."""

    def __init__(self, model_name: Callable[[], str]):
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "unmask"}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("unmask")
        self._model_name = model_name

    def stop(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def follow(self, request: Request) -> Callable[[Step | EngineError], None]:
        """A listener that traces one generation, inside the trace that its HTTP request belongs to, if any."""
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": "generate",
            "gen_ai.request.model": self._model_name(),
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "unmask.request_id": str(context.get_value(_REQUEST_ID) or ""),
            "unmask.scheduler": request.scheduler.name,
            "unmask.block_length": request.block_length,
        }
        submitted = time.time_ns()
        span = self._tracer.start_span("generate", attributes=attributes, start_time=submitted)
        ends: list[int] = []  # of blocks
        first_pass = submitted

        def listen(event: Step | EngineError) -> None:
            nonlocal first_pass
            now = time.time_ns()
            if isinstance(event, EngineError):
                span.set_status(Status(StatusCode.ERROR, type(event).__name__))
                span.end(now)
                return
            if event.index == 0:
                first_pass = now
            if event.ended:
                ends.append(now)
            if event.result is not None:
                self._divide(span, submitted, first_pass, ends, event.result)
                _close(span, event.result, len(ends), now)

        return listen

    def _divide(self, span: Span, submitted: int, first_pass: int, ends: list[int], result: Result) -> None:
        """Spans inside a span; times in nanoseconds."""
        inside = trace.set_span_in_context(span, context.Context())
        started = submitted + int(result.queue_seconds * _NANO)
        parts = [("queue", submitted, started)]
        if result.forward_passes:
            parts.append(("prefill", started, max(first_pass, started)))
        begins = [started, *ends]
        parts += [(f"block {i}", begin, end) for i, (begin, end) in enumerate(zip(begins, ends, strict=False))]
        for name, begin, end in parts[: MAX_BLOCKS + 2]:
            self._tracer.start_span(name, inside, start_time=begin).end(end)


def _close(span: Span, result: Result, blocks: int, now: int) -> None:
    span.set_attributes(
        {
            "gen_ai.usage.input_tokens": result.prompt_tokens,
            "gen_ai.usage.output_tokens": result.generated,
            "gen_ai.response.finish_reasons": [REASONS[result.finish_reason]],
            "unmask.forward_passes": result.forward_passes,
            "unmask.blocks": blocks,
        }
    )
    span.end(now)


class TraceContext:
    """Takes over the trace that a request names in its header `traceparent`."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        incoming = propagate.extract(Headers(scope=scope))
        token = context.attach(context.set_value(_REQUEST_ID, scope["state"]["request_id"], incoming))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)
