"""Who may ask: API keys and origins; and what a stream says while it has nothing to say."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.live import Live, live
from tests.synthetic import synthetic_llada
from unmask.arguments import parse_settings
from unmask.errors import UsageError
from unmask.policies.network import PolicyNetwork, PolicyShape
from unmask.policies.store import PolicyConfig, policy_names, save_policy
from unmask.server.ops.access import PROBES
from unmask.server.routes.playground import PATHS
from unmask.server.settings import ServeSettings

KEYS = ("first-key", "schlüssel")
ORIGIN = "https://example.com"
SILENCE = 0.05  # seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_llada(tmp_path_factory.mktemp("model") / "tiny")
    with live(folder, api_key=KEYS, cors_origin=(ORIGIN,), keep_alive_interval=SILENCE) as running:
        yield running


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny")) as running:
        yield running


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"Authorization": b"Bearer " + key.encode()}


def slow_down(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = server.app.state.backend.service.engine
    step = engine.step

    def slow() -> Any:
        time.sleep(3 * SILENCE)
        return step()

    monkeypatch.setattr(engine, "step", slow)


def test_everything_but_probes_and_the_page_wants_a_key(server: Live) -> None:
    paths = server.app.openapi()["paths"]
    tried = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    for method, path in sorted(
        tried
        | {
            ("GET", "/docs"),
            ("GET", "/docs/static/swagger-ui.css"),
            ("GET", "/openapi.json"),
            ("GET", "/"),
            ("GET", "/static/playground.js"),
            ("GET", "/static/x"),
        }
    ):
        response = server.http.request(method, path)
        assert (response.status_code == httpx.codes.UNAUTHORIZED) == (path not in PROBES | PATHS), path
    assert ("POST", "/generate") in tried


@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens(server: Live, key: str) -> None:
    for headers in (bearer(key), {b"authorization": b"bearer  " + key.encode()}, {b"X-Api-Key": key.encode()}):
        assert server.http.get("/v1/models", headers=headers).status_code == httpx.codes.OK


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer first-ke", "Bearer first-key2", "Basic first-key"])
def test_nothing_else_does(server: Live, value: str) -> None:
    response = server.http.get("/v1/models", headers={"Authorization": value})
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert response.json()["error"]["type"] == "authentication_error"
    assert "Authorization: Bearer KEY" in response.json()["error"]["message"]


def test_the_official_client_knows_what_is_wrong(server: Live) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
        assert client.with_options(api_key=KEYS[0]).models.list().data


def test_keys_come_from_flags_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(*arguments: str) -> tuple[str, ...]:
        return parse_settings(ServeSettings, "unmask serve", list(arguments)).api_key

    assert keys() == ()
    assert keys("--api-key", "a", "--api-key", "b") == ("a", "b")
    monkeypatch.setenv("UNMASK_API_KEY", "c, d")
    assert keys() == ("c", "d")
    assert keys("--api-key", "a") == ("a",)
    monkeypatch.setenv("UNMASK_API_KEY", " ")
    with pytest.raises(UsageError, match="UNMASK_API_KEY: it is empty"):
        keys()


def test_pages_of_one_origin_are_let_in(server: Live) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    for origin, status in ((ORIGIN, 200), ("https://example.org", 400)):
        response = server.http.options("/generate", headers={"Origin": origin, **asks})
        assert response.status_code == status
        assert response.headers.get("access-control-allow-origin") == (ORIGIN if status == 200 else None)
    refused = server.http.get("/v1/models", headers={"Origin": ORIGIN})
    assert refused.headers["access-control-allow-origin"] == ORIGIN  # or the page could not read why


def test_no_page_is_let_in_by_default(plain: Live) -> None:
    response = plain.http.get("/v1/models", headers={"Origin": ORIGIN})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert plain.http.options("/generate", headers={"Origin": ORIGIN}).status_code == 405


def test_what_is_no_origin_is_refused() -> None:
    for wrong in ("example.com", "https://example.com/", "null"):
        with pytest.raises(ValueError, match="is not an origin; give scheme and host"):
            ServeSettings(cors_origin=(wrong,))


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_silent_stream_is_kept_alive(server: Live, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    slow_down(server, monkeypatch)
    body = {"prompt": "a", "max_tokens": 2, "stream": True}
    text = server.http.post(path, json=body, headers=bearer(KEYS[0])).text
    *events, rest = text.split("\n\n")
    assert rest == ""
    assert events.count(": keep-alive") >= 2
    assert {event[:5] for event in events} <= {": kee", "event", "data:"}  # none is cut into another


def test_the_official_client_passes_over_what_keeps_alive(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(server, monkeypatch)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEYS[0], max_retries=0) as client:
        asked: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": 2}
        assert [chunk.choices[0].finish_reason for chunk in client.completions.create(**asked, stream=True)][-1]


def test_stream_that_flows_has_no_comments(plain: Live) -> None:
    text = plain.http.post("/generate", json={"prompt": "a", "max_tokens": 8, "stream": True}).text
    assert "keep-alive" not in text
    assert text.count("event: step") == 8


def test_unknown_log_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'text' or 'json'"):
        ServeSettings.model_validate({"log_format": "xml"})


def test_policies_are_shipped_ones_or_allowed_ones(tmp_path: Path) -> None:
    """Of a path that is not allowed, the server does not even tell whether there is something."""
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    for folder in (allowed, other):
        save_policy(folder, PolicyNetwork(PolicyShape()), PolicyConfig())
    asked = {"prompt": "a", "max_tokens": 4}

    def outcome(server: Live, **fields: Any) -> tuple[int, Any]:
        response = server.http.post("/generate", json={**asked, **fields})
        return response.status_code, response.json().get("error", {}).get("code")

    with live(synthetic_llada(tmp_path / "tiny"), allow_policy=(str(allowed),)) as server:
        for refused in (str(other), f"{allowed}/", "/etc", str(tmp_path / "nothing"), "", ".", "tests"):
            for fields in ({"policy": refused}, {"scheduler": {"name": "policy", "policy": refused}}):
                assert outcome(server, **fields) == (400, "policy_not_allowed")
        assert outcome(server, policy=str(allowed)) == outcome(server, policy="full-diffusion") == (200, None)
        assert outcome(server, scheduler={"name": "policy", "policy": [1]}) == (400, "invalid_option")
        response = server.http.post("/generate", json={**asked, "policy": "/etc"})
        assert response.json()["error"]["param"] == "policy"
        assert f"'/etc' on this server; name one of {', '.join(policy_names())}" in response.text
    with live(tmp_path / "tiny", allow_policy=("*",)) as server:
        assert outcome(server, policy=str(other)) == (200, None)


@pytest.mark.parametrize("path", ["/health", "/ping", "/ready", "/v1/models", "/version", "/", "/metrics", "/docs"])
def test_head_is_get_without_the_body(plain: Live, path: str) -> None:
    got, head = plain.http.get(path), plain.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert plain.http.head("/generate").status_code == 405
