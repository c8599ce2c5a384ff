"""Input states over HTTP: chosen per request on every endpoint, told in the answer, and the default of a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import Live, live
from tests.synthetic import synthetic_llada

BODIES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "hello"},
    "/v1/completions": {"prompt": "hello"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/fim/completions": {"prompt": "hello", "suffix": "you"},
}
ASKED: dict[str, Any] = {"max_tokens": 12, "block_length": 6, "seed": 1, "temperature": 0.5}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny")) as running:
        yield running


def ask(server: Live, path: str, **fields: Any) -> dict[str, Any]:
    response = server.http.post(path, json=BODIES[path] | ASKED | fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def text(answer: dict[str, Any]) -> Any:
    return answer["text"] if "text" in answer else answer["choices"]


@pytest.mark.parametrize("path", BODIES)
def test_every_endpoint_takes_one_and_says_which(server: Live, path: str) -> None:
    plain = ask(server, path)
    assert plain["diffusion"]["input_state"] == {"name": "mask"}
    for given in ("residual", {"name": "residual", "alpha": 1}, "residual:temperature=1"):
        answer = ask(server, path, input_state=given)
        assert answer["diffusion"]["input_state"] == {"name": "residual", "alpha": 1.0, "temperature": 1.0}
        assert text(answer) != text(plain)
    assert text(ask(server, path, input_state="auto")) == text(plain)


def test_the_default_is_the_servers_and_else_the_models(tmp_path: Path) -> None:
    folder = synthetic_llada(tmp_path / "RCD-tiny")
    cases: list[tuple[dict[str, Any], str]] = [({}, "residual"), ({"input_state": "soft"}, "soft")]
    for settings, found in cases:
        with live(folder, **settings) as server:
            assert ask(server, "/generate")["diffusion"]["input_state"]["name"] == found
            assert ask(server, "/generate", input_state="mask")["diffusion"]["input_state"] == {"name": "mask"}
