"""Traces, as a collector on a loopback socket receives them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.live import live, wait_for
from tests.synthetic import synthetic_llada
from unmask.server.ops.tracing import MAX_BLOCKS
from unmask.server.settings import ServeSettings

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}


@contextmanager
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    """What an OTLP collector is sent while the environment names it."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        yield received
        server.shutdown()
        thread.join()


def spans(received: list[ExportTraceServiceRequest]) -> list[Span]:
    return [
        span
        for request in received
        for one in request.resource_spans
        for scope in one.scope_spans
        for span in scope.spans
    ]


def attributes(span: Span) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes}


def test_generation_is_a_span_with_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(monkeypatch) as received:
        with live(synthetic_llada(tmp_path / "tiny"), otel=True) as server:
            body = {"prompt": "swordfish", "max_tokens": 12, "block_length": 4, "scheduler": "margin"}
            assert server.http.post("/generate", json=body, headers=HEADERS).status_code == 200
        found = spans(received)
    resource = received[0].resource_spans[0].resource.attributes
    assert {one.key: one.value.string_value for one in resource}["service.name"] == "unmask"
    (whole,) = [span for span in found if span.name == "generate"]
    assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (TRACE, PARENT)
    told = attributes(whole)
    assert (told["unmask.request_id"], told["unmask.scheduler"], told["unmask.blocks"]) == ("mine", "margin", 3)
    assert (told["gen_ai.usage.output_tokens"], told["unmask.forward_passes"]) == (12, 12)
    assert told["gen_ai.request.model"] == "tiny"
    parts = [span for span in found if span is not whole]
    assert [span.name for span in parts] == ["queue", "prefill", "block 0", "block 1", "block 2"]
    assert {span.parent_span_id for span in parts} == {whole.span_id}
    queue, prefill, *blocks = parts
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano == blocks[0].start_time_unix_nano
    assert all(one.end_time_unix_nano == next.start_time_unix_nano for one, next in pairwise(blocks))
    assert all(
        whole.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano <= whole.end_time_unix_nano
        for span in parts
    )
    assert "swordfish" not in str(received)


def test_what_fails_or_is_given_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.schedulers.random.Random.decide", lambda self, view, state: 1 / 0)
    with collector(monkeypatch) as received:
        with live(synthetic_llada(tmp_path, max_sequence_length=1024), otel=True) as server:
            assert server.http.post("/generate", json={"prompt": "a", "scheduler": "random"}).status_code == 500
            with server.running(prompt="a", max_tokens=1000, block_length=1):
                pass
            wait_for(lambda: server.metric("unmask_num_requests_running") == 0)
        failed, given_up = (span for span in spans(received) if span.name == "generate")
    assert (failed.status.code, failed.status.message) == (Status.STATUS_CODE_ERROR, "SchedulerFailedError")
    reasons = next(one for one in given_up.attributes if one.key == "gen_ai.response.finish_reasons")
    assert [value.string_value for value in reasons.value.array_value.values] == ["abort"]


def test_blocks_beyond_some_are_counted_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(monkeypatch) as received:
        with live(synthetic_llada(tmp_path, max_sequence_length=1024), otel=True) as server:
            server.generate(prompt="a", max_tokens=MAX_BLOCKS + 3, block_length=1)
        found = spans(received)
    assert sum(span.name.startswith("block ") for span in found) == MAX_BLOCKS
    assert [attributes(span)["unmask.blocks"] for span in found if span.name == "generate"] == [MAX_BLOCKS + 3]


def test_without_the_extra_the_flag_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'opentelemetry.sdk'")

    monkeypatch.setattr("unmask.server.settings.import_module", missing)
    with pytest.raises(ValueError, match=r"No module named 'opentelemetry.sdk'; pip install 'unmask\[otel\]'"):
        ServeSettings(otel=True)
    assert ServeSettings().otel is False
