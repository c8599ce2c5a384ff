"""What a client asks for is parsed, checked and turned into tokens once. Calls are counted, not timed."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.live import Live, live
from unmask import LLM, weights
from unmask.engine.canvas import Canvas
from unmask.engine.engine import Engine
from unmask.models.tokenizer import Tokenizer
from unmask.schedulers import registry
from unmask.schedulers.options import numeric_kinds
from unmask.schedulers.topk import TopK
from unmask.server.parse import policies

MESSAGES = [{"role": "user", "content": "a"}]
SHORT = {"max_tokens": 8, "block_length": 4, "steps": 2, "temperature": 0.5}
NUMERIC = len(numeric_kinds(TopK.Options))  # of whose values each is computed
REQUESTS: list[tuple[str, dict[str, Any], int, dict[str, int]]] = [
    ("/generate", {"prompt": "a", **SHORT}, 1, {"encode": 1}),
    ("/generate", {"messages": MESSAGES, **SHORT}, 1, {"chat": 1, "encode": 1}),
    ("/generate", {"prompt": "a", "canvas": "b [MASK] c [MASK:3]"}, 1, {"encode": 4}),
    ("/generate", {"prompt": "a", "canvas": "b [MASK] c [MASK:3]", "stream": True}, 1, {"encode": 4}),
    ("/v1/chat/completions", {"messages": MESSAGES, "n": 3, **SHORT}, 3, {"chat": 1, "encode": 1}),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "suffix": "c", **SHORT}, 4, {"encode": 3}),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b", **SHORT}, 1, {"encode": 2}),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as server:
        server.http.post("/generate", json={"prompt": "a"})
        yield server


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each of these was called since the test began."""
    counted: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def counting(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return call(*arguments, **named)

        monkeypatch.setattr(owner, name, counting)

    for owner, name in (
        (Engine, "check"),
        (Canvas, "__post_init__"),
        (Tokenizer, "encode"),
        (Tokenizer, "chat"),
        (registry, "parse_options"),
        (registry, "number"),
    ):
        count(owner, name)
    return counted


@pytest.mark.parametrize(("path", "body", "requests", "tokenised"), REQUESTS)
def test_a_body_is_parsed_checked_and_tokenised_once(
    server: Live, calls: Counter[str], path: str, body: dict[str, Any], requests: int, tokenised: dict[str, int]
) -> None:
    response = server.http.post(path, json={"scheduler": "topk", **body})
    assert response.status_code == 200, response.text
    once = {"parse_options": 1, "number": NUMERIC, "check": requests, "__post_init__": requests}
    assert calls == once | tokenised


def test_the_python_api_checks_each_request_once(calls: Counter[str]) -> None:
    outputs = LLM(device="cpu").generate(["a", "b"], n=2, progress=False, max_tokens=8, block_length=4, steps=2)
    assert len(outputs) == 4
    assert calls == {"parse_options": 1, "number": NUMERIC, "check": 4, "__post_init__": 4, "encode": 2}


def test_the_folder_of_policies_is_listed_once() -> None:
    policies.shipped_policies.cache_clear()
    listed = [policies.shipped_policies() for _ in range(2)]
    assert listed[0] == tuple(sorted(folder.name for folder in (weights.HERE / "policies").iterdir()))
    assert policies.shipped_policies.cache_info().misses == 1
