"""Crowds and nonsense: a server of its own on a loopback socket answers right, forgets nobody and keeps its size."""

import asyncio
import json
import random
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.live import PATIENCE, wait_for
from tests.process import answers, free_port, serving
from tests.synthetic import synthetic_llada

ROWS, WAITING = 16, 64
GROWTH = 24 * 2**20  # bytes that may come and go with buffers and allocators; a body of each request would be more
MAX_BODY = 200_000
CROWD = 140  # clients at once, of whom more are refused than can wait
PADDING = 190_000  # bytes of each of their bodies, so that those of one crowd would be seen
JSON = "Content-Type: application/json\r\n"

SHORT: list[dict[str, Any]] = [
    {"prompt": "hello" * (1 + i % 3), "max_tokens": 8 + i, "block_length": 4 + i, "seed": i, "temperature": i % 2}
    for i in range(8)
]
LONG: dict[str, Any] = {"prompt": "hello", "max_tokens": 500, "block_length": 8, "stream": True}


@dataclass
class Server:
    """A server in a process, and the process."""

    url: str
    port: int
    process: psutil.Process

    @property
    def size(self) -> int:
        """Bytes of memory that it takes."""
        size: int = self.process.memory_info().rss
        return size

    def idle(self) -> bool:
        return bool(httpx.get(f"{self.url}/load", timeout=PATIENCE).json()["server_load"] == 0)

    def passes(self) -> float:
        """Forward passes that requests have had so far."""
        lines = httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("unmask_forward_passes_total"))

    def generate(self, body: dict[str, Any]) -> Any:
        return httpx.post(f"{self.url}/generate", json=body, timeout=PATIENCE).json()["text"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = synthetic_llada(tmp_path_factory.mktemp("model") / "tiny", max_sequence_length=512)
    port = free_port()
    limits: dict[str, Any] = {"max_rows": ROWS, "max_waiting": WAITING, "max_body_bytes": MAX_BODY, "dtype": "float32"}
    limits["default_max_tokens"] = 8  # of what schemathesis asks for
    with serving(folder, port, log=subprocess.DEVNULL, **limits) as process:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}"))
        yield Server(f"http://127.0.0.1:{port}", port, psutil.Process(process.pid))


@pytest.fixture(scope="module")
def right(server: Server) -> list[str]:
    """The answers to SHORT, each asked alone."""
    return [server.generate(body) for body in SHORT]


# It makes lists that are too long, in bodies that are too large before anybody counts.
REFUSALS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 404, 408, 413, 422, 429, 503]
"""


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    arguments = ["--phases", "coverage,fuzzing", "--max-examples", "3", "--generation-deterministic", "--no-color"]
    arguments += ["--request-timeout", str(PATIENCE)]
    # A schema cannot tell how many tokens a text has, nor that just one of three fields may be given.
    arguments += ["--exclude-checks", "positive_data_acceptance"]
    command = [str(Path(sys.executable).with_name("st")), "run", f"{server.url}/openapi.json", *arguments]
    (tmp_path / "schemathesis.toml").write_text(REFUSALS)
    found = subprocess.run(  # in a folder of its own, for what it leaves behind
        command, cwd=tmp_path, capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    assert found.returncode == 0, found.stdout
    paths = httpx.get(f"{server.url}/openapi.json", timeout=PATIENCE).json()["paths"]
    operations = sum(len(methods) for methods in paths.values())
    assert f"Tested: {operations}\n" in found.stdout


def malformed(chance: random.Random) -> tuple[str, bytes]:
    """(path, a whole request but for its request line) that no server should carry out."""
    path = chance.choice(["/generate", "/v1/completions"])
    field = chance.choice(["prompt", "max_tokens", "stop", "seed", "scheduler", "temperature", "stream", "timeout"])
    good = json.dumps({"prompt": "a", "max_tokens": 4}).encode()
    nested = chance.choice(["[", '{"a":']) * chance.choice([50, 2_000, 60_000])
    bodies: dict[str, bytes] = {
        "type": json.dumps({"prompt": "a", field: [[{"a": 1}], None, {}]}).encode(),
        "huge number": b'{"prompt": "a", "max_tokens": 1' + b"0" * chance.choice([20, 400, 5000]) + b"}",
        "huge text": json.dumps({"prompt": "a" * 150_000}).encode(),
        "huge list": json.dumps({"prompt": [7] * 40_000}).encode(),
        "huge body": b" " * (MAX_BODY + 1),
        "deep": f'{{"prompt": "a", "scheduler": {nested}'.encode(),
        "deep and closed": b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}",
        "no UTF-8": good.replace(b"a", bytes([chance.randrange(128, 256)]), 1),
        "half a surrogate": b'{"prompt": "\\ud800"}',
        "half a surrogate as a key": b'{"prompt": "a", "\\ud800": 1}',
        "not a number": b'{"prompt": "a", "temperature": ' + chance.choice([b"NaN", b"Infinity", b"-Infinity"]) + b"}",
        "truncated": good[: chance.randrange(len(good))],
        "noise": chance.randbytes(chance.randrange(1, 500)),
        "odd key": json.dumps({"prompt": "a", "scheduler": {"name": "topk", "\0" * 50: 1}}).encode(),
    }
    body = bodies[chance.choice(list(bodies))]
    return path, f"{JSON}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def exchange(port: int, request: bytes, whole: bool = False) -> bytes:
    """All that the server answers to some bytes; unless they are whole, the client says that there is no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        if not whole:  # one who has said so is taken as gone once the answer takes a moment
            writer.write_eof()
        return await reader.read()
    except OSError:  # refused, and closed, before it was sent whole
        return b""
    finally:
        writer.close()


async def throw(port: int, count: int, seed: int) -> Counter[str]:
    """The statuses that so many malformed requests get, twenty at a time; "none" for none."""
    chance, statuses, gate = random.Random(seed), Counter[str](), asyncio.Semaphore(20)

    async def one(path: str, request: bytes) -> None:
        async with gate, asyncio.timeout(PATIENCE):
            head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".encode()
            answer = await exchange(port, head + request, whole=True)
            statuses[answer[9:12].decode() or "none"] += 1

    await asyncio.gather(*(one(*malformed(chance)) for _ in range(count)))
    return statuses


def test_a_thousand_malformed_requests_leave_no_trace(server: Server, right: list[str]) -> None:
    asyncio.run(throw(server.port, 300, seed=0))
    before = server.size
    statuses = asyncio.run(throw(server.port, 1000, seed=1))
    grown = server.size - before
    assert statuses.keys() <= {"400", "413", "none"}, statuses
    assert statuses["400"] > 700
    assert grown < GROWTH
    assert [server.generate(body) for body in SHORT] == right


def test_what_is_no_http_is_dropped(server: Server, right: list[str]) -> None:
    chance = random.Random(0)
    head = b"POST /generate HTTP/1.1\r\nHost: a\r\n"
    for request in (
        chance.randbytes(1000),
        b"\x16\x03\x01\x02\x00\x01\x00",
        head + b"Content-Length: -1\r\n\r\n",
        head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        head + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        head + JSON.encode() + b"Content-Length: 100\r\n\r\n{}",
    ):
        answer = asyncio.run(exchange(server.port, request))
        assert answer[:13] in (b"", b"HTTP/1.1 400 "), request[:80]
    assert server.generate(SHORT[0]) == right[0]


@pytest.mark.parametrize("size", [70_000, 200_000, 20_000_000])
@pytest.mark.parametrize("pieces", [1, 50])
def test_headers_without_end_are_refused(server: Server, size: int, pieces: int) -> None:
    """Whole or in pieces, on a path that wants no key."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        try:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
            for _ in range(pieces):
                client.sendall(b"X: " + b"a" * (size // pieces) + b"\r\n")
            client.sendall(b"\r\n")
            answer = client.recv(1000)
        except OSError:  # closed before all was sent
            answer = b""
    assert answer[:13] in (b"", b"HTTP/1.1 400 ", b"HTTP/1.1 431 ")


def leave(port: int, body: bytes, rudely: bool) -> bytes:
    """Begin a stream and close the connection when its first bytes have come: those."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(
            f"POST /generate HTTP/1.1\r\nHost: a\r\n{JSON}Content-Length: {len(body)}\r\n\r\n".encode() + body
        )
        first = client.recv(1000)
        if rudely:  # a reset instead of an orderly end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return first


async def leave_all(port: int, count: int) -> Counter[bytes]:
    body, gate = json.dumps(LONG).encode(), asyncio.Semaphore(ROWS + WAITING // 2)

    async def one(i: int) -> bytes:
        async with gate:
            while (status := (await asyncio.to_thread(leave, port, body, i % 2 == 0))[9:12]) == b"429":
                await asyncio.sleep(0.1)  # those who left are let go once a step
            return status

    return Counter(await asyncio.gather(*(one(i) for i in range(count))))


def test_those_who_leave_take_no_rows_with_them(server: Server, right: list[str]) -> None:
    before, count = server.passes(), 4 * (ROWS + WAITING)
    statuses = asyncio.run(leave_all(server.port, count))
    assert statuses == {b"200": count}
    wait_for(server.idle)
    assert server.passes() - before < count * LONG["max_tokens"] / 10  # they were not left to end
    assert [server.generate(body) for body in SHORT] == right


async def ask(client: httpx.AsyncClient, i: int) -> tuple[int, str]:
    """(status, text or code of the error) of one request, every third of them a stream; padded, to leave a trace."""
    content = json.dumps({**SHORT[i % len(SHORT)], "stream": i % 3 == 0}) + " " * PADDING
    headers = {"content-type": "application/json"}
    if i % 3:
        response = await client.post("/generate", content=content, headers=headers)
        answer = response.json()
        return response.status_code, answer["text"] if response.status_code == 200 else answer["error"]["code"]
    async with client.stream("POST", "/generate", content=content, headers=headers) as response:
        said = (await response.aread()).decode()
    if response.status_code != 200:
        return response.status_code, json.loads(said)["error"]["code"]
    name, data = said.strip().rsplit("\n\n", 1)[-1].split("\n")
    assert name == "event: done"
    return 200, json.loads(data.removeprefix("data: "))["text"]


async def crowd(url: str, count: int, patient: bool) -> list[list[tuple[int, str]]]:
    """What so many clients get who ask at once: each its last answer, after refusals if it is patient."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits) as client:

        async def one(i: int) -> list[tuple[int, str]]:
            outcomes = [await ask(client, i)]
            while patient and outcomes[-1][0] == 429:
                await asyncio.sleep(0.2)
                outcomes.append(await ask(client, i))
            return outcomes

        return await asyncio.gather(*(one(i) for i in range(count)))


def test_who_asks_in_a_crowd_gets_an_answer_or_a_refusal(server: Server, right: list[str]) -> None:
    outcomes = [one for (one,) in asyncio.run(crowd(server.url, CROWD, patient=False))]
    for i, outcome in enumerate(outcomes):
        assert outcome in ((200, right[i % len(right)]), (429, "queue_full"))
    answered = sum(status == 200 for status, _ in outcomes)
    assert answered >= WAITING
    wait_for(server.idle)


def test_crowds_that_wait_lose_no_answer_and_leave_no_trace(server: Server, right: list[str]) -> None:
    sizes = []
    for _ in range(2):
        outcomes = asyncio.run(crowd(server.url, CROWD, patient=True))
        assert [one[-1] for one in outcomes] == [(200, right[i % len(right)]) for i in range(CROWD)]
        sizes.append(server.size)
    assert sizes[-1] - sizes[0] < GROWTH
    wait_for(server.idle)
