"""Requests through a server: in a closed loop at a concurrency, or in an open loop at a rate."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from unmask.engine.request import Request
from unmask.errors import UserError
from unmask.evals.bench.runs import BenchAnswer, Run
from unmask.settings import ENV_PREFIX, ModelSettings

Ask = Callable[[httpx.AsyncClient, Request, float], Awaitable[BenchAnswer]]  # (client, request, when its clock starts)

_TLS = httpx.create_ssl_context()  # once, as it takes as long as a request
POLL = 0.1  # seconds between two checks whether the server is ready
PATIENCE = 60.0  # seconds that a server may take to end


def run_http(
    url: str, requests: Sequence[Request], concurrency: int, rate: float | None, seed: int, stream: bool
) -> Run:
    """Answer the requests over HTTP.

    stream  whether steps are sent as they come, which times the first settled token
    rate    requests per second, which arrive at random (a Poisson process drawn from `seed`), independently of the
            answers. None keeps `concurrency` of them running, each followed by the next.
    """
    started = time.perf_counter()
    try:
        ask: Ask = _ask_stream if stream else _ask
        how = _closed(url, requests, concurrency, ask) if rate is None else _open(url, requests, rate, seed, ask)
        answers = asyncio.run(how)
    except (httpx.TransportError, _FailedError) as error:
        raise UserError(f"{url} did not answer a request: {error!r}") from None
    return Run(time.perf_counter() - started, tuple(answers))


def arrivals(count: int, rate: float, seed: int) -> list[float]:
    """Seconds from the start at which requests come, at `rate` per second on average."""
    rng, at = random.Random(seed), 0.0
    return [at := at + rng.expovariate(rate) for _ in range(count)]


class _FailedError(Exception):
    """The server refused a request or broke off."""


@contextmanager
def serving(settings: ModelSettings, rows: int, waiting: int) -> Iterator[str]:
    """The address of an `unmask serve` of the same model, in a process of its own, that is ready; ended on leaving."""
    with tempfile.TemporaryFile("w+") as log:
        port = _free_port()
        flags = {"host": "127.0.0.1", "port": port, "max_rows": rows, "max_waiting": max(waiting, 1)}
        flags["prefix_reuse"] = False  # each round asks the same
        model = {name: getattr(settings, name) for name in ModelSettings.model_fields}
        given = {name: value for name, value in {**model, **flags}.items() if value not in (None, ())}
        # The variables of this command are not for the server: they may be lists, or ask for another default.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        environment = {**inherited, **{f"{ENV_PREFIX}{name.upper()}": _written(value) for name, value in given.items()}}
        command = [sys.executable, "-m", "unmask", "serve"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                while not _is_ready(url):
                    if process.poll() is not None:
                        log.seek(0)
                        why = (log.read().splitlines() or ["nothing was logged"])[-1]
                        raise UserError(f"the server for --http ended: {why}")
                    time.sleep(POLL)
                yield url
            finally:
                _end(process)


async def _closed(url: str, requests: Sequence[Request], concurrency: int, ask: Ask) -> list[BenchAnswer]:
    """Each of the clients asks one request after another. Each has a connection of its own: a shared pool searches
    its connections at every request, which would add to the measured times.
    """
    answers: dict[int, BenchAnswer] = {}
    left = iter(enumerate(requests))

    async def in_turn() -> None:
        async with _client(url) as client:
            for i, request in left:
                answers[i] = await ask(client, request, time.perf_counter())

    await asyncio.gather(*(in_turn() for _ in range(min(concurrency, len(requests)))))
    return [answers[i] for i in range(len(requests))]


async def _open(url: str, requests: Sequence[Request], rate: float, seed: int, ask: Ask) -> list[BenchAnswer]:
    started = time.perf_counter()

    async def when_due(client: httpx.AsyncClient, request: Request, after: float) -> BenchAnswer:
        await asyncio.sleep(started + after - time.perf_counter())
        return await ask(client, request, started + after)  # a client that is late must not flatter the server

    async with _client(url) as client:
        due = zip(requests, arrivals(len(requests), rate, seed), strict=True)
        return await asyncio.gather(*(when_due(client, request, after) for request, after in due))


async def _ask(client: httpx.AsyncClient, request: Request, since: float) -> BenchAnswer:
    """One request of /generate; its clock runs from `since`."""
    response = await client.post("/generate", json=body(request))
    if response.is_error:
        raise _FailedError(response.text)
    done = response.json()
    seconds = time.perf_counter() - since
    return BenchAnswer(tuple(done["token_ids"]), done["diffusion"]["forward_passes"], seconds)


async def _ask_stream(client: httpx.AsyncClient, request: Request, since: float) -> BenchAnswer:
    """The same, streamed."""
    first = None
    needs = request.scheduler.needs()
    may_remask = needs.remask or needs.write or needs.finish
    async with client.stream("POST", "/generate", json=body(request) | {"stream": True}) as response:
        if response.is_error:
            raise _FailedError((await response.aread()).decode())
        async for name, data in _events(response):
            now = time.perf_counter() - since
            if first is None and settles(name, data, may_remask):
                first = now
            if name == "error":
                raise _FailedError(data["message"])
            if name == "done":
                return BenchAnswer(tuple(data["token_ids"]), data["diffusion"]["forward_passes"], now, first)
    raise _FailedError("the stream ended before it was done")


def body(request: Request) -> dict[str, Any]:
    """The JSON of a request. Token ids, so that both sides of a comparison get the same prompt."""
    options = {name: value for name, value in request.scheduler.values.items() if value is not None}
    return {
        "input_ids": request.prompt,
        "max_tokens": request.max_tokens,
        "block_length": request.block_length,
        "scheduler": {"name": request.scheduler.name, **options},
        "cache": str(request.cache),
        "input_state": request.input_state.as_json(),
        "seed": request.seed,
    } | ({} if request.pace is None else {"speed": {"auto": [request.pace.low, request.pace.high]}})


def settles(name: str, data: dict[str, Any], may_remask: bool) -> bool:
    """Whether an event shows the first token that cannot change: the leftmost one, or that of a finished block."""
    if name == "step" and not may_remask:
        return any(position == 0 for position, *_ in data["revealed"])
    return name == "block" and data["text"] != ""


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """(name, data) of each server-sent event, as they come."""
    name = ""
    async for line in _lines(response):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """The lines of an event stream. httpx would also end them where Unicode does, at characters that JSON may hold."""
    rest = ""
    async for text in response.aiter_text():
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield line


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=None, limits=httpx.Limits(max_connections=None), verify=_TLS)


def _written(value: object) -> str:
    """A setting as a variable of the environment has it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").is_success
    except httpx.TransportError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
