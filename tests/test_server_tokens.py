"""What OpenAI's endpoints tell of tokens: ids, log-probabilities, prompts; and snapshots. The model `tiny` writes
single bytes, many of which are parts of characters."""

import json
import math
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import torch

from tests.live import ANSWER, QUESTION, Live, live
from tests.synthetic import synthetic_llada
from unmask.models.loading import Model

ROUNDING = 1e-4
ASKED: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": 24, "seed": 1}
HI: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 24, "seed": 1}
BLOCKS = {"block_length": 4, "temperature": 0.7}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / "tiny")) as running:
        yield running


@pytest.fixture(scope="module")
def model(server: Live) -> Model:
    found: Model = server.app.state.backend.model
    return found


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def post(server: Live, path: str, **body: Any) -> dict[str, Any]:
    response = server.http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def name_of(model: Model, token_id: int) -> str:
    """A token by its text; one that is a part of a character as OpenAI does."""
    data = model.tokenizer.token_bytes(token_id)
    assert data is not None
    text = data.decode(errors="replace")
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data) if "\ufffd" in text else text


def test_logprobs_are_those_of_the_steps_of_reveal(client: openai.OpenAI, server: Live, model: Model) -> None:
    (choice,) = client.completions.create(**ASKED, logprobs=3, extra_body=BLOCKS).choices
    native = server.generate(**ASKED, **BLOCKS, return_steps=True)
    told = choice.logprobs
    assert told is not None
    ids = native["token_ids"]
    assert told.tokens == [*(name_of(model, id) for id in ids), "<|eot_id|>"]  # this one ends there
    assert (told.token_logprobs or [])[:-1] == pytest.approx(
        [math.log(p) for p in native["token_confidences"]], abs=1e-3
    )
    decode, text_of = model.tokenizer.decode, model.tokenizer.token_text
    assert told.text_offset == [
        *(len(decode(ids[: i + 1])) - len(text_of(id)) for i, id in enumerate(ids)),
        len(native["text"]),
    ]
    assert told.top_logprobs is not None
    for token, value, top in zip(told.tokens, told.token_logprobs or (), told.top_logprobs, strict=True):
        assert top[token] == value
        assert 3 <= len(top) <= 4
        assert sum(map(math.exp, top.values())) <= 1 + ROUNDING
    plain = client.completions.create(**ASKED, extra_body=BLOCKS).choices[0]
    assert (plain.text, plain.logprobs) == (choice.text, None)


def test_logprobs_zero_tells_the_token_alone(client: openai.OpenAI) -> None:
    told = client.completions.create(**ASKED, logprobs=0, extra_body=BLOCKS).choices[0].logprobs
    assert told is not None
    assert told.top_logprobs == [
        {token: value} for token, value in zip(told.tokens or (), told.token_logprobs or (), strict=True)
    ]


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_tells_the_tokens_of_the_whole(client: openai.OpenAI, server: Live, model: Model, echo: bool) -> None:
    asked = {**ASKED, **BLOCKS, "logprobs": 2, "return_token_ids": True, "echo": echo}
    (whole,) = post(server, "/v1/completions", **asked)["choices"]
    joined: dict[str, list[Any]] = {name: [] for name in whole["logprobs"]}
    text, ids, prompts = "", list[int](), []
    extra = {**BLOCKS, "return_token_ids": True}
    for chunk in client.completions.create(**ASKED, logprobs=2, echo=echo, stream=True, extra_body=extra):
        choice = chunk.choices[0].model_dump()
        assert choice["text"] or choice["finish_reason"] or choice["token_ids"]
        text, ids = text + choice["text"], ids + choice["token_ids"]
        assert text.removeprefix("hello" * echo).startswith(model.tokenizer.decode(ids))
        prompts.append(choice.get("prompt_token_ids"))
        for name, values in choice["logprobs"].items():
            joined[name] += values
    assert (text, ids) == (whole["text"], whole["token_ids"])
    assert prompts == [whole["prompt_token_ids"], *[None] * (len(prompts) - 1)]
    assert joined == whole["logprobs"]
    assert text.startswith("hello") == echo


def test_echo_tells_the_prompt_before_each_answer(client: openai.OpenAI) -> None:
    plain = client.completions.create(**{**ASKED, "prompt": ["hello", "bye"]}, n=2, extra_body=BLOCKS)
    echoed = client.completions.create(**{**ASKED, "prompt": ["hello", "bye"]}, n=2, echo=True, extra_body=BLOCKS)
    prompts = ["hello", "hello", "bye", "bye"]
    texts = [choice.text for choice in plain.choices]
    assert [choice.text for choice in echoed.choices] == [a + b for a, b in zip(prompts, texts, strict=True)]
    assert echoed.usage == plain.usage
    streamed = [""] * 4
    for chunk in client.completions.create(
        **{**ASKED, "prompt": ["hello", "bye"]}, n=2, echo=True, stream=True, extra_body=BLOCKS
    ):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in echoed.choices]
    ids = client.completions.create(**{**ASKED, "prompt": [75, 76]}, echo=True).choices[0].text
    assert ids != client.completions.create(**{**ASKED, "prompt": [75, 76]}).choices[0].text


def test_echoed_logprobs_are_what_lm_eval_reads(server: Live, model: Model) -> None:
    """Arrays of the prompt's length and one more; the first prompt token has none; the greedy token is the maximum."""
    ids = model.tokenizer.encode("hello you")
    (choice,) = post(server, "/v1/completions", prompt=[ids], max_tokens=1, logprobs=1, echo=True, temperature=0)[
        "choices"
    ]
    told = choice["logprobs"]
    assert {len(values) for values in told.values()} == {len(ids) + 1}
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    for i in range(1, len(ids)):
        row = torch.tensor([[*ids[:i], *[model.mask_id] * (len(ids) - i)]])
        with torch.no_grad():
            log_p = model.network.logits(row)[0, i].log_softmax(-1)
        assert told["token_logprobs"][i] == pytest.approx(log_p[ids[i]].item(), abs=ROUNDING)
        log_p[[model.mask_id, *range(model.vocab_size, len(log_p))]] = -torch.inf
        assert max(told["top_logprobs"][i].values()) == pytest.approx(
            max(log_p.max().item(), told["token_logprobs"][i]), abs=ROUNDING
        )


@pytest.mark.parametrize("stream", [False, True])
def test_no_tokens_with_echo_tell_the_prompt_alone(client: openai.OpenAI, server: Live, stream: bool) -> None:
    """Nothing is generated, and the log-probabilities are those that are told before an answer."""
    asked = {**ASKED, "prompt": ["hello", "bye"], "n": 2, "logprobs": 1, "echo": True}
    answered = post(server, "/v1/completions", **{**asked, "max_tokens": 1})["choices"]
    passes = server.metric("unmask_forward_passes_total", scheduler="topk")
    with client.completions.with_streaming_response.create(**{**asked, "max_tokens": 0}, stream=stream) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    answers = [json.loads(line) for line in lines if line != "[DONE]"]
    choices = [choice for answer in answers for choice in answer["choices"]]
    assert len(answers) == (4 if stream else 1)
    assert [choice["text"] for choice in choices] == ["hello", "hello", "bye", "bye"]
    assert {choice["finish_reason"] for choice in choices} == {"length"}
    for choice, whole in zip(choices, answered, strict=True):
        assert choice["logprobs"] == {name: values[:-1] for name, values in whole["logprobs"].items()}
    told = answers[-1]["diffusion"]
    assert (told["forward_passes"], told["tokens_per_step"], told["tokens_per_second"]) == (0, 0, 0)
    assert stream or answers[-1]["usage"]["total_tokens"] == answers[-1]["usage"]["prompt_tokens"] > 0
    assert server.metric("unmask_forward_passes_total", scheduler="topk") == passes


@pytest.mark.parametrize("stream", [False, True])
def test_the_end_of_text_has_its_logprob(stream: bool) -> None:
    """So that there is an entry for each token of max_tokens 1, as lm-eval expects, which drops the last one."""
    with live("llada-nano") as server:
        tokenizer = server.app.state.backend.model.tokenizer
        prompt = [*tokenizer.chat([{"role": "user", "content": QUESTION}]), *tokenizer.encode(ANSWER)]
        asked = {"prompt": prompt, "max_tokens": 1, "logprobs": 1, "stream": stream}
        for echo, before in ((True, len(prompt)), (False, 0)):
            lines = server.http.post("/v1/completions", json={**asked, "echo": echo}).text.strip().split("\n\n")
            (choice,) = json.loads(lines[0].removeprefix("data: "))["choices"]
            assert choice["finish_reason"] == "stop"
            assert choice["text"] == tokenizer.decode(prompt if echo else [])
            assert {len(values) for values in choice["logprobs"].values()} == {before + 1}
            assert choice["logprobs"]["tokens"][-1] == "<|eot_id|>"
            assert choice["logprobs"]["token_logprobs"][-1] > -0.01


def test_chat_logprobs(client: openai.OpenAI, server: Live, model: Model) -> None:
    whole = client.chat.completions.create(**HI, logprobs=True, top_logprobs=2, extra_body=BLOCKS).choices[0]
    native = server.generate(messages=HI["messages"], max_tokens=24, seed=1, **BLOCKS, return_steps=True)
    assert whole.logprobs is not None
    told = whole.logprobs.content or []
    assert [one.logprob for one in told] == pytest.approx([math.log(p) for p in native["token_confidences"]], abs=1e-3)
    for one in told:
        assert len(one.top_logprobs) == 2
        assert bytes(one.bytes or ()).decode(errors="replace") == one.token
    plain = [one for id, one in zip(native["token_ids"], told, strict=False) if model.tokenizer.decode([id])]
    written = b"".join(bytes(one.bytes or ()) for one in plain)  # of all but special tokens
    assert written.decode(errors="replace") == whole.message.content
    streamed = [
        one
        for chunk in client.chat.completions.create(**HI, logprobs=True, top_logprobs=2, stream=True, extra_body=BLOCKS)
        if chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content or ()
    ]
    assert streamed == told
    alone = client.chat.completions.create(**HI, logprobs=True, extra_body=BLOCKS).choices[0].logprobs
    assert alone is not None
    assert [one.top_logprobs for one in alone.content or ()] == [[]] * len(told)
    refused = server.http.post("/v1/chat/completions", json={**HI, "top_logprobs": 2})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "top_logprobs")


def test_chat_tells_token_ids(server: Live, model: Model) -> None:
    answer = post(server, "/v1/chat/completions", **HI, n=2, return_token_ids=True)
    assert answer["prompt_token_ids"] == model.tokenizer.chat(HI["messages"])
    assert [model.tokenizer.decode(choice["token_ids"]) for choice in answer["choices"]] == [
        choice["message"]["content"] for choice in answer["choices"]
    ]
    assert "prompt_token_ids" not in post(server, "/v1/chat/completions", **HI)


def test_usage_all_along(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    for create, asked in ((client.completions.create, ASKED), (client.chat.completions.create, HI)):
        chunks = list(create(**asked, stream=True, stream_options=options, extra_body=BLOCKS))
        usages = [chunk.usage for chunk in chunks]
        counts = [usage.completion_tokens for usage in usages if usage]
        assert len(counts) == len(chunks) > 4
        assert counts == sorted(counts)
        assert usages[0] is not None
        assert usages[-1] == usages[-2]
        assert usages[-1].prompt_tokens == usages[0].prompt_tokens


def test_snapshots_replace_each_other(client: openai.OpenAI, server: Live) -> None:
    extra = {**BLOCKS, "diffusing": True}
    whole = client.completions.create(**ASKED, extra_body=BLOCKS).choices[0].text
    texts = [c.choices[0].text for c in client.completions.create(**ASKED, stream=True, extra_body=extra)]
    steps = [data for name, data in server.events(**ASKED, **BLOCKS) if name == "step"]
    assert len(texts) == len(steps)
    assert [text.count("\u2591") for text in texts[:-1]] == list(range(23, 24 - len(texts), -1))
    assert texts[-1] == whole
    chunks = list(client.chat.completions.create(**HI, n=2, stream=True, extra_body=extra))
    for choice in (0, 1):
        roles = [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].index == choice]
        assert roles == ["assistant", *[None] * (len(roles) - 1)]
    last = {chunk.choices[0].index: chunk.choices[0].delta.content for chunk in chunks}
    answers = client.chat.completions.create(**HI, n=2, extra_body=BLOCKS).choices
    assert last == {choice.index: choice.message.content for choice in answers}


def test_snapshots_of_the_embedded_model_show_what_is_known() -> None:
    with live("llada-nano") as server:
        body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64, "block_length": 64}
        fast = {"scheduler": "threshold", "diffusing": True, "stream": True}
        lines = server.http.post("/v1/chat/completions", json={**body, **fast}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    first, last = (chunk["choices"][0]["delta"]["content"] for chunk in (chunks[1], chunks[-1]))
    assert last == ANSWER
    assert "\u2591" in first
    assert first.startswith("1 + 8 = 9\n9 +")
    assert "diffusion" in chunks[-1]


def test_ignoring_the_end_of_text_fills_the_region() -> None:
    with live("llada-nano") as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        asked: dict[str, Any] = {"model": "llada-nano", "messages": [{"role": "user", "content": QUESTION}]}
        for more, reason in (({}, "stop"), ({"ignore_eos": True}, "length")):
            answer = client.chat.completions.create(**asked, max_tokens=48, extra_body=more)
            assert answer.choices[0].finish_reason == reason
            assert answer.usage is not None
            assert (answer.usage.completion_tokens == 48) == bool(more)
            assert (answer.choices[0].message.content or "").startswith(ANSWER)
            native = server.generate(messages=asked["messages"], max_tokens=48, **more)
            assert (native["finish_reason"], len(native["token_ids"])) == (reason, answer.usage.completion_tokens)
            chunks = client.chat.completions.create(
                **asked, max_tokens=48, stream=True, extra_body={**more, "return_token_ids": True}
            )
            ids = [id for chunk in chunks for id in chunk.choices[0].model_dump().get("token_ids", ())]
            assert len(ids) == answer.usage.completion_tokens
