"""Ends of line that Unicode knows and event streams do not: we write none, and read them where others do."""

import asyncio
import json

import httpx
import pytest

from tests.live import live, named_events
from tests.synthetic import synthetic_llada
from unmask.evals.bench.http import _events
from unmask.server.reply.sse import event

ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
DATA = {"text": f"a{ENDS}b", ENDS: ["é😀"]}


def test_an_event_is_one_line_for_every_reader() -> None:
    text = event(DATA, "step")
    assert text.split("\n") == [*text.splitlines(), ""]
    assert text.splitlines()[0] == "event: step"
    assert json.loads(text.splitlines()[1].removeprefix("data: ")) == DATA
    assert "é😀" in text


def raw() -> httpx.Response:
    """A stream of another server's, which escapes no more than JSON must."""
    data = json.dumps(DATA, ensure_ascii=False)
    content = f"event: step\ndata: {data}\n\n: a comment\n\nevent: done\ndata: {data}\n\n"
    return httpx.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=content.encode())


def test_our_readers_read_them_raw() -> None:
    async def read() -> list[object]:
        return [one async for one in _events(raw())]

    assert list(named_events(raw())) == asyncio.run(read()) == [("step", DATA), ("done", DATA)]


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_can_be_read_by_lines(tmp_path_factory: pytest.TempPathFactory, end: str) -> None:
    with live(synthetic_llada(tmp_path_factory.mktemp("model"))) as server:
        body = {"canvas": f"[MASK]a{end}b[MASK]", "stream": True}
        with server.http.stream("POST", "/generate", json=body) as response:
            data = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert json.loads(data[-1])["text"].count(f"a{end}b") == 1
    assert all(json.loads(one) for one in data)
