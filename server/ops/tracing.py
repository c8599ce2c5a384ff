"""Traces for OpenTelemetry: a span for each generation, and in it the queue, the first pass and the blocks.

OpenTelemetry's own variables say where they go (OTEL_EXPORTER_OTLP_ENDPOINT), how many are kept (OTEL_TRACES_SAMPLER)
and what the service is called (OTEL_SERVICE_NAME). This module needs the extra `otel`.
"""

import os
from collections.abc import Callable
from itertools import pairwise

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from unmask.engine.request import Result, Step
from unmask.engine.service import EngineError
from unmask.server.ops.metrics import REASONS
from unmask.server.ops.timeline import Timeline

MAX_BLOCKS = 100  # spans of blocks per generation; later blocks are only counted
_REQUEST_ID = context.create_key("request-id")


class Tracing:
    """Makes spans and sends them on a thread of its own. They hold no text of prompts or answers."""

    def __init__(self, model_name: Callable[[], str]):
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {SERVICE_NAME: "unmask"}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("unmask")
        self._model_name = model_name

    def stop(self) -> None:
        """Send what is left."""
        self._provider.shutdown()

    def start(self, timeline: Timeline) -> Span:
        """The span of a generation, inside the trace of its HTTP request, if it belongs to one."""
        request = timeline.request
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": "generate",
            "gen_ai.request.model": self._model_name(),
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.request.temperature": request.temperature,
            "unmask.request_id": str(context.get_value(_REQUEST_ID) or ""),
            "unmask.scheduler": request.scheduler.name,
            "unmask.block_length": request.block_length,
        }
        return self._tracer.start_span("generate", attributes=attributes, start_time=timeline.began)

    def end(self, span: Span, timeline: Timeline, event: Step | EngineError) -> None:
        """End the span if the event is the last one of its generation."""
        if isinstance(event, EngineError):
            span.set_status(Status(StatusCode.ERROR, type(event).__name__))
        elif event.result is not None:
            self._divide(span, timeline, event.result)
            span.set_attributes(_figures(event.result, len(timeline.blocks)))
        else:
            return
        span.end(timeline.wall(timeline.last))

    def _divide(self, span: Span, timeline: Timeline, result: Result) -> None:
        """Spans inside the span: the queue, the first pass and the blocks."""
        inside = trace.set_span_in_context(span, context.Context())
        started = timeline.submitted + result.queue_seconds
        parts = [("queue", timeline.submitted, started)]
        if result.forward_passes:
            parts.append(("prefill", started, max(timeline.first_pass, started)))
        blocks = pairwise([started, *timeline.blocks])
        parts += [(f"block {i}", begin, end) for i, (begin, end) in enumerate(blocks)]
        for name, begin, end in parts[: MAX_BLOCKS + 2]:
            self._tracer.start_span(name, inside, start_time=timeline.wall(begin)).end(timeline.wall(end))


def _figures(result: Result, blocks: int) -> dict[str, int | list[str]]:
    return {
        "gen_ai.usage.input_tokens": result.prompt_tokens,
        "gen_ai.usage.output_tokens": result.generated,
        "gen_ai.response.finish_reasons": [REASONS[result.finish_reason]],
        "unmask.forward_passes": result.forward_passes,
        "unmask.blocks": blocks,
    }


class TraceContext:
    """Continues the trace that a request names in its header `traceparent`."""

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
