"""How a server tells what it found of prompts that it had computed before, on every wire."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import Live, live
from tests.synthetic_block import synthetic_sdar

ASKED: dict[str, Any] = {"max_tokens": 8, "seed": 1}
TEXT = "the 12 cats and the 3 dogs"  # a system prompt that all have in common


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_sdar(tmp_path_factory.mktemp("model") / "tiny", block_size=4)
    with live(folder, metrics_compat="vllm", max_rows=4) as running:
        yield running


def usages(server: Live, user: str) -> dict[str, Any]:
    """The usage that each endpoint tells for one conversation."""
    messages = [{"role": "system", "content": TEXT}, {"role": "user", "content": user}]
    chat = {**ASKED, "messages": messages}

    def post(path: str, **body: Any) -> Any:
        response = server.http.post(path, json={**body, "seed": 1})
        assert response.status_code == 200, response.text
        return response.json()["usage"]

    return {
        "chat": post("/v1/chat/completions", **chat),
        "several": post("/v1/chat/completions", **chat, n=2),
        "native": post("/generate", **chat),
        "responses": post("/v1/responses", input=messages, max_output_tokens=8),
        "messages": post("/v1/messages", system=TEXT, messages=messages[1:], max_tokens=8),
    }


def test_usage_says_what_needed_no_pass(server: Live) -> None:
    first = usages(server, "how many dogs are there?")["chat"]
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}
    again = usages(server, "how many dogs are there?")
    whole = first["prompt_tokens"]
    expected = whole // 4 * 4
    assert expected > 40
    for name in ("chat", "several", "native"):
        assert again[name]["prompt_tokens"] == whole
        assert again[name]["prompt_tokens_details"] == {"cached_tokens": expected}, name
    assert again["responses"]["input_tokens"] == whole
    assert again["responses"]["input_tokens_details"]["cached_tokens"] == expected
    counts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert [again["messages"][name] for name in counts] == [whole - expected, expected, 0]
    part = usages(server, "what?")["chat"]["prompt_tokens_details"]["cached_tokens"]
    assert len(TEXT) // 2 < part < expected  # the system prompt


def test_completions_of_several_prompts_add_up(server: Live) -> None:
    body = {**ASKED, "prompt": [list(range(5, 34)), list(range(60, 77))], "n": 2}
    found = [server.http.post("/v1/completions", json=body).json()["usage"] for _ in range(2)]
    assert [one["prompt_tokens_details"]["cached_tokens"] for one in found] == [0, 28 + 16]
    stream = {**body, "stream": True, "stream_options": {"include_usage": True}}
    assert '"prompt_tokens_details":{"cached_tokens":44}' in server.http.post("/v1/completions", json=stream).text


def test_metrics_count_tokens_under_both_names(server: Live) -> None:
    def counted() -> list[float]:
        names = [f"prefix_cache_{name}_total" for name in ("queries", "hits")]
        ours = [server.metric(f"unmask_{name}") for name in names]
        labels = {"engine": "0", "model_name": server.http.get("/v1/models").json()["data"][0]["id"]}
        assert ours == [server.metric(f"vllm:{name}", **labels) for name in names]
        return ours

    before = counted()
    for _ in range(2):
        server.generate(**ASKED, input_ids=list(range(100, 133)))
    assert [now - then for now, then in zip(counted(), before, strict=True)] == [66, 32]


def test_it_can_be_turned_off(server: Live) -> None:
    with live(server.app.state.backend.settings.model, prefix_reuse=False) as other:
        for _ in range(2):
            assert "prompt_tokens_details" not in other.generate(**ASKED, prompt=TEXT)["usage"]
        assert other.metric("unmask_prefix_cache_queries_total") == 0
