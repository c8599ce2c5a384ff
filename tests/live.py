"""A server on a loopback socket, in a thread, as clients meet it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from unmask.server.app import create_app
from unmask.server.settings import ServeSettings

# A problem of the embedded model's, and what it answers.
QUESTION = (
    "Tom has 1 pears. Tom gets 8 more. Tom finds 6 more. Tom gives away 4. Tom gets 9 more. "
    "How many pears does Tom have?"
)
ANSWER = "1 + 8 = 9\n9 + 6 = 15\n15 - 4 = 11\n11 + 9 = 20\n#### 20"
PATIENCE = 300.0  # seconds, which only a failure waits; the machine may be busy
POLL = 0.01


@dataclass
class Live:
    """A running server: its app, its address, and a client for it."""

    app: FastAPI
    url: str
    http: httpx.Client = field(repr=False)

    def generate(self, **body: Any) -> dict[str, Any]:
        response = self.http.post("/generate", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def events(self, **body: Any) -> list[tuple[str, Any]]:
        """The named events of a stream of /generate."""
        with self.http.stream("POST", "/generate", json={**body, "stream": True}) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            return list(named_events(response))

    @contextmanager
    def running(self, **body: Any) -> Iterator[Iterator[tuple[str, Any]]]:
        """The later events of a stream of /generate that has made a step; leaving closes the connection."""
        with self.http.stream("POST", "/generate", json={**body, "stream": True}) as response:
            events = named_events(response)  # kept, as the connection ends with the last reader of the response
            assert "step" in (name for name, _ in events)
            yield events

    def leave(self, path: str, when: Callable[[], bool], **body: Any) -> None:
        """Send a request, and close its connection without an answer once `when` holds."""
        content = json.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        address = self.http.base_url.host, self.http.base_url.port or 0
        with socket.create_connection(address, PATIENCE) as client:
            client.sendall(f"{head}\r\n\r\n{content}".encode())
            wait_for(when)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 if there is none."""
        wanted = name + ("{" + ",".join(f'{k}="{v}"' for k, v in sorted(labels.items())) + "}" if labels else "")
        lines = (line.rpartition(" ") for line in self.http.get("/metrics").text.splitlines())
        return sum(float(value) for sample, _, value in lines if sample == wanted)


@contextmanager
def live(folder: Path | str, ready: bool = True, **changes: Any) -> Iterator[Live]:
    """Serve a checkpoint; `changes` are to the settings. Waits until it is ready, unless told not to."""
    app = create_app(ServeSettings(**{"model": str(folder), "device": "cpu", "dtype": "float32"} | changes))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=PATIENCE) as http:
                wait_for(lambda: server.started)
                if ready:
                    wait_for(lambda: http.get("/ready").status_code == 200)
                yield Live(app, url, http)
        finally:
            server.should_exit = True
            thread.join()


def named_events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """(name, data) of each server-sent event, as they come."""
    name = ""
    for line in _lines(response):
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def _lines(response: httpx.Response) -> Iterator[str]:
    """As the standard of event streams ends lines, and not as Unicode does."""
    rest = ""
    for text in response.iter_text():
        *lines, rest = (rest + text).split("\n")
        yield from lines


def wait_for(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Return when the condition holds; fail if it does not within so many seconds."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(POLL)
