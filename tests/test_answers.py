"""A streamed answer is the whole one: text, token ids, counts and log-probabilities, over every model family.

The models write little but a, b, the bytes of é and 😀, and ends of text, so that parts of characters, stop texts and
tokens without text meet in every way. What is drawn is drawn from a seed.
"""

import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch

from tests.live import Live, live, named_events
from tests.synthetic_relatives import FAMILIES, KINDS
from unmask.models.loading import Model

ROUNDS = 8  # a family
STOPS = ["a", "ab", "ba", "bb", "abab", "bab", "é", "aé", "éb", "éé", "😀", "a😀", "😀b", "\ufffd", "a\ufffd", "aab"]
BLOCKS = (1, 2, 4)  # these divide the block of every family
WANTED = 30.0  # added to the logits of what the models write
EVENNESS = 0.3  # times their own logits, so that no token is much more probable than another


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp("model") / request.param)
    with live(folder, prefix_reuse=False) as running, pytest.MonkeyPatch.context() as patch:
        write_little(model_of(running), patch)
        yield running


def model_of(server: Live) -> Model:
    model: Model = server.app.state.backend.model
    return model


def chance(server: Live, test: str) -> random.Random:
    """Draws that differ from family to family and from test to test."""
    return random.Random(f"{server.app.state.backend.model_name} {test}")


def write_little(model: Model, patch: pytest.MonkeyPatch) -> None:
    """Have the model want a few tokens, and among them what it wants anyway."""
    encode = model.tokenizer.encode
    bias = torch.zeros(model.network.head.out_features)
    bias[[*encode("abé"), *encode("😀"), min(model.stop_ids)]] = WANTED
    head = model.network.head.forward
    patch.setattr(model.network.head, "forward", lambda hidden: head(hidden) * EVENNESS + bias)


def drawn(rng: random.Random) -> dict[str, Any]:
    """The fields of a request that all endpoints share."""
    return {
        "max_tokens": rng.randrange(1, 25),
        "block_length": rng.choice(BLOCKS),
        "scheduler": rng.choice(["topk", "random", "eb", {"name": "topk", "n": 3}, "joint", "credit", "saber"]),
        "temperature": rng.choice([1, 2]),
        "seed": rng.randrange(2**31),
        "stop": rng.sample(STOPS, rng.randrange(4)),
    }


def chunks(server: Live, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """All of a stream of an OpenAI endpoint but its end."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    response = server.http.post(path, json={**body, "stream": True, "stream_options": options})
    assert response.status_code == 200, response.text
    *events, end = response.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def joined(parts: list[dict[str, Any]], choice: int) -> dict[str, Any]:
    """One choice of a stream, put together: every list and text is the sum of its parts."""
    whole: dict[str, Any] = {"text": "", "token_ids": [], "logprobs": {}, "finish_reason": None}
    for part in (one for chunk in parts for one in chunk["choices"] if one["index"] == choice):
        assert whole["finish_reason"] is None
        whole["text"] += part["text"] if "text" in part else part["delta"].get("content", "")
        whole["token_ids"] += part.get("token_ids", [])
        for name, values in (part["logprobs"] or {}).items():
            if values is not None:
                whole["logprobs"][name] = whole["logprobs"].get(name, []) + values
        whole["finish_reason"] = part["finish_reason"]
    return whole


def check(server: Live, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a whole answer, each of which is that of the stream and has the ids of its text."""
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    whole, parts = response.json(), chunks(server, path, body)
    for choice in whole["choices"]:
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        logprobs = {name: values for name, values in choice["logprobs"].items() if values is not None}
        told = {"text": text, "token_ids": choice["token_ids"], "logprobs": logprobs}
        assert joined(parts, choice["index"]) == told | {"finish_reason": choice["finish_reason"]}
        choice["text"] = text
    counts = [chunk["usage"]["completion_tokens"] for chunk in parts]
    assert counts == sorted(counts)
    assert counts[-1] == whole["usage"]["completion_tokens"] == sum(len(one["token_ids"]) for one in whole["choices"])
    return list(whole["choices"])


def test_completions(server: Live) -> None:
    rng, decode = chance(server, "completions"), model_of(server).tokenizer.decode
    for _ in range(ROUNDS):
        top, echo = rng.choice([0, 1, 5]), rng.choice(["", "é = b"])
        body = {**drawn(rng), "prompt": echo or "a", "echo": bool(echo), "logprobs": top, "return_token_ids": True}
        for choice in check(server, "/v1/completions", {**body, "n": 2, "ignore_eos": rng.random() < 0.5}):
            assert choice["text"] == echo + decode(choice["token_ids"])
            told = choice["logprobs"]
            assert told["text_offset"] == sorted(told["text_offset"])
            for token, value, tops in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True):
                if value is not None:
                    assert tops[token] == value
                    assert len(tops) >= max(top, 1)
            for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
                if not token.startswith(("bytes:", "<|")):
                    assert choice["text"].startswith(token, offset)


def test_chat(server: Live) -> None:
    rng = chance(server, "chat")
    for _ in range(ROUNDS):
        body = {**drawn(rng), "messages": [{"role": "user", "content": "é"}]}
        body |= {"logprobs": True, "return_token_ids": True}
        for choice in check(server, "/v1/chat/completions", {**body, "ignore_eos": rng.random() < 0.5}):
            told = choice["logprobs"]["content"]
            assert len(told) == len(choice["token_ids"])
            written = b"".join(bytes(one["bytes"]) for one in told if not one["token"].startswith("<|"))
            assert written.decode(errors="replace") == choice["text"]


def canvas(rng: random.Random) -> str:
    """Gaps between given texts."""
    gaps = (rng.choice(["a", "é#", "😀#", "#", "ab", ""]) + f"[MASK:{rng.randrange(1, 9)}]" for _ in range(3))
    return "b" + "".join(gaps) + rng.choice(["", "é"])


def replayed(steps: Iterable[dict[str, Any]]) -> dict[int, int]:
    """The token at each position after some events."""
    standing: dict[int, int] = {}
    for step in steps:
        for position in step["remasked"]:
            del standing[position]
        for position, token, *_ in step["revealed"]:
            assert position not in standing
            standing[position] = token
        for position, token, *_ in step.get("written", []):
            assert standing[position] != token
            standing[position] = token
    return standing


def test_generate(server: Live) -> None:
    rng, decode = chance(server, "generate"), model_of(server).tokenizer.decode
    for i in range(ROUNDS):
        body = drawn(rng)
        if i % 2:
            body |= {"canvas": canvas(rng), "stop": [*body["stop"], "#"][-rng.randrange(1, 3) :]}
            del body["max_tokens"]
        else:
            body["prompt"] = "a"
        whole = server.generate(**body, return_steps=True)
        with server.http.stream("POST", "/generate", json={**body, "return_steps": True, "stream": True}) as response:
            events = list(named_events(response))
        done = events[-1][1]
        compared = ("text", "token_ids", "finish_reason", "token_steps", "token_confidences", "canvas")
        assert {name: done.get(name) for name in compared} == {name: whole.get(name) for name in compared}
        assert "".join(data["text"] for name, data in events if name == "block") == whole["text"]
        if "prompt" in body:
            standing = replayed(data for name, data in events if name == "step")
            assert [standing[position] for position in range(len(done["token_ids"]))] == done["token_ids"]
        assert decode(whole["token_ids"]) == whole["text"]
        assert not any(stop in whole["text"] for stop in body["stop"])
