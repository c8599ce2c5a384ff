"""`/tokenize` and its relatives, and filling in the middle, with the embedded model."""

import json
from collections.abc import Iterator
from typing import Any

import jinja2
import pytest

from tests.live import QUESTION, Live, live
from unmask.models.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "How many?"}]
GAP: dict[str, Any] = {
    "prompt": QUESTION + "\n\n",
    "suffix": "\n15 - 4 = 11\n11 + 9 = 20\n#### 20",
    "max_tokens": 11,
}
FILLED = "1 + 8 = 9\n9 + 6 = 15"
BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("/tokenize", {}, "prompt", "exactly one of the fields prompt, messages"),
    ("/tokenize", {"prompt": "a", "messages": CHAT}, "prompt", "exactly one of"),
    ("/tokenize", {"prompt": 5}, "prompt", "must be a valid string"),
    ("/tokenize", {"prompt": "a", "x": 1}, "x", "unknown field 'x'; the fields are: model, prompt"),
    ("/tokenize", {"prompt": "a" * 100_000}, "prompt", "more than the 32768 that could fit"),
    ("/tokenize", {"messages": CHAT, "add_special_tokens": True}, "add_special_tokens", "not for messages"),
    ("/detokenize", {}, "tokens", "is missing"),
    ("/detokenize", {"tokens": [435]}, "tokens", "token id 435; give ids from 0 to 434"),
    ("/detokenize", {"tokens": "a"}, "tokens", "valid array"),
    ("/v1/fim/completions", {"suffix": "a"}, "prompt", "is missing"),
    ("/v1/fim/completions", {"prompt": ["a"]}, "prompt", "must be a valid string"),
    ("/v1/fim/completions", {**GAP, "logprobs": 1}, "logprobs", "not supported with the value 1"),
    ("/v1/fim/completions", {**GAP, "seed": 1, "random_seed": 2}, "seed", "differ; give one of them"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(server: Live) -> Tokenizer:
    found: Tokenizer = server.app.state.backend.model.tokenizer
    return found


def post(server: Live, path: str, **body: Any) -> dict[str, Any]:
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_tokens_are_those_of_prompts(server: Live, tokenizer: Tokenizer) -> None:
    counted = post(server, "/tokenize", prompt=QUESTION)
    usage = server.generate(prompt=QUESTION, max_tokens=1)["usage"]
    assert counted == {"tokens": tokenizer.encode(QUESTION), "count": usage["prompt_tokens"], "max_model_len": 512}
    assert post(server, "/tokenize", prompt=QUESTION, add_special_tokens=False) == counted
    chat = post(server, "/tokenize", messages=CHAT)
    assert chat["count"] == server.generate(messages=CHAT, max_tokens=1)["usage"]["prompt_tokens"]
    assert post(server, "/tokenize", prompt="")["count"] == 0


def test_tokens_as_the_vocabulary_writes_them(server: Live) -> None:
    told = post(server, "/tokenize", prompt="1 + 8\u00e9", return_token_strs=True)
    assert told["token_strs"][:3] == ["1", "\u0120+", "\u01208"]
    assert len(told["token_strs"]) == told["count"] > 4


def test_there_and_back(server: Live) -> None:
    for text in (QUESTION, "caf\u00e9 \u2603\n", "<|endoftext|>a<|mdm_mask|>", ""):
        tokens = post(server, "/tokenize", prompt=text)["tokens"]
        assert post(server, "/detokenize", tokens=tokens) == {"prompt": text}


def test_info_is_enough_to_write_chats(server: Live, tokenizer: Tokenizer) -> None:
    info = server.http.get("/tokenizer_info").json()
    assert (info["eos_token"], info["bos_token"], info["mask_token"]) == (
        "<|endoftext|>",
        "<|startoftext|>",
        "<|mdm_mask|>",
    )
    assert (info["vocab_size"], info["model_max_length"], info["stop_token_ids"]) == (435, 512, [430, 434])
    assert info["tokenizer_class"] == "PreTrainedTokenizerFast"
    written = jinja2.Template(info["chat_template"]).render(
        messages=CHAT, bos_token=info["bos_token"], add_generation_prompt=True
    )
    assert post(server, "/tokenize", prompt=written)["tokens"] == tokenizer.chat(CHAT)


def test_filling_in_the_middle_in_two_shapes(server: Live) -> None:
    answer = post(server, "/v1/fim/completions", **GAP, random_seed=3)
    (choice,) = answer["choices"]
    assert choice["text"] == choice["message"]["content"] == FILLED
    assert answer["usage"]["completion_tokens"] == 11
    assert answer["id"].startswith("fim-")
    lines = server.http.post("/v1/fim/completions", json={**GAP, "stream": True}).text.split("\n\n")
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
    assert "".join(choice["text"] for choice in choices) == FILLED
    assert all(choice["delta"] == {"role": "assistant", "content": choice["text"]} for choice in choices)
    assert lines[-2] == "data: [DONE]"


def test_filling_in_the_middle_obeys_its_seed(server: Live) -> None:
    hot = {"prompt": QUESTION + "\n\n", "max_tokens": 32, "temperature": 2.0, "scheduler": {"name": "topk", "n": 32}}
    texts = [
        post(server, "/v1/fim/completions", **hot, **seed)["choices"][0]["text"]
        for seed in ({"seed": 5}, {"random_seed": 5}, {"seed": 5, "random_seed": 5}, {"random_seed": 6})
    ]
    assert texts[0] == texts[1] == texts[2] != texts[3]


@pytest.mark.parametrize(("path", "body", "param", "message"), BAD, ids=lambda value: str(value)[:40])
def test_refusals(server: Live, path: str, body: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post(path, json=body)
    assert response.status_code == 400, response.text
    assert (response.json()["error"]["param"], message in response.json()["error"]["message"]) == (param, True)


def test_half_a_surrogate_pair_is_no_text(server: Live) -> None:
    for path in ("/tokenize", "/v1/fim/completions", "/v1/chat/completions"):
        response = server.http.post(
            path, content=b'{"prompt": "\\ud800"}', headers={"content-type": "application/json"}
        )
        assert response.status_code == 400
        assert "surrogate" in response.json()["error"]["message"]
