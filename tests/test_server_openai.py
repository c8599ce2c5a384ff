"""`/v1/completions` and `/v1/models` as the official client sees them, over a real socket."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.live import PATIENCE, Live, live, wait_for
from tests.synthetic import synthetic_llada

MODEL = "tiny"
ASKED: dict[str, Any] = {"model": MODEL, "prompt": "hello", "max_tokens": 16, "seed": 1}
BLOCKS = {"block_length": 4, "threshold": 0.1}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(synthetic_llada(tmp_path_factory.mktemp("model") / MODEL)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_completion(client: openai.OpenAI, server: Live) -> None:
    completion = client.completions.create(**ASKED, extra_body=BLOCKS)
    native = server.generate(prompt="hello", max_tokens=16, seed=1, **BLOCKS)
    (choice,) = completion.choices
    assert (choice.text, choice.finish_reason, choice.index) == (native["text"], "length", 0)
    assert completion.usage is not None
    assert completion.usage.model_dump(exclude_none=True) == native["usage"]
    assert completion.object == "text_completion"
    assert completion.id.startswith("cmpl-")
    untimed = ("scheduler", "block_length", "steps", "forward_passes", "tokens_per_step")
    assert completion.model_extra is not None
    assert [completion.model_extra["diffusion"][key] for key in untimed] == [
        native["diffusion"][key] for key in untimed
    ]


def test_stream_adds_up_to_the_whole(client: openai.OpenAI) -> None:
    whole = client.completions.create(**ASKED, extra_body=BLOCKS)
    chunks = list(client.completions.create(**ASKED, stream=True, extra_body=BLOCKS))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk.choices[0].text for chunk in chunks[:-1])
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert ["diffusion" in (chunk.model_extra or {}) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_stream_ends_with_usage_if_asked(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(**ASKED, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    assert all(piece.usage is None and "diffusion" not in (piece.model_extra or {}) for piece in pieces)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 21
    assert (last.model_extra or {})["diffusion"]["forward_passes"] == 16


def test_steps_are_told_choice_by_choice_if_asked(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": ["ab", "cde"], "max_tokens": 12, "seed": 3}
    extra = {"block_length": 12, "scheduler": {"name": "topk", "n": 5}, "return_steps": True}
    whole = client.completions.create(**fields, extra_body=extra)
    for choice in whole.choices:
        told = choice.model_dump()
        assert sorted(told["token_steps"]) == [0] * 5 + [1] * 5 + [2] * 2
        assert all(0 < confidence <= 1 for confidence in told["token_confidences"])
    assert whole.model_dump()["diffusion"]["ar_ness"].keys() == {"local", "global"}
    ends = [
        chunk.choices[0].model_dump()
        for chunk in client.completions.create(**fields, extra_body=extra, stream=True)
        if chunk.choices[0].finish_reason
    ]
    assert [end["token_steps"] for end in sorted(ends, key=lambda end: end["index"])] == [
        choice.model_dump()["token_steps"] for choice in whole.choices
    ]


def test_stream_ends_with_done(server: Live) -> None:
    body = {**ASKED, "stream": True}
    lines = [line for line in server.http.post("/v1/completions", json=body).text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)


@pytest.mark.parametrize(
    "prompt", ["hello", ["hello", "bye"], [1, 2, 3], [[1, 2, 3], [4, 5]]], ids=["text", "texts", "ids", "lists of ids"]
)
def test_every_shape_of_prompt(client: openai.OpenAI, prompt: Any) -> None:
    together = client.completions.create(**{**ASKED, "prompt": prompt})
    several = prompt if isinstance(prompt[0], list) or prompt == ["hello", "bye"] else [prompt]
    alone = [client.completions.create(**{**ASKED, "prompt": one}).choices[0].text for one in several]
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == list(range(len(several)))


def test_choices_take_seeds_in_turn(client: openai.OpenAI) -> None:
    hot = {**ASKED, "temperature": 1.5}
    both = client.completions.create(**{**hot, "prompt": ["hello", "bye"]}, n=2)
    single = [
        client.completions.create(**{**hot, "prompt": prompt, "seed": seed}).choices[0].text
        for prompt in ("hello", "bye")
        for seed in (1, 2)
    ]
    assert [choice.text for choice in both.choices] == single
    assert both.usage is not None
    assert (both.usage.prompt_tokens, both.usage.completion_tokens) == (8, 64)


def test_stream_of_several_choices(client: openai.OpenAI) -> None:
    whole = client.completions.create(**ASKED, n=3, temperature=1.0, extra_body=BLOCKS)
    texts = ["", "", ""]
    for chunk in client.completions.create(**ASKED, n=3, temperature=1.0, stream=True, extra_body=BLOCKS):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


def test_neutral_values_are_accepted(client: openai.OpenAI) -> None:
    neutral: dict[str, Any] = {
        "best_of": 1,
        "echo": False,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "logprobs": None,
        "n": 1,
        "presence_penalty": 0,
        "stop": None,
        "suffix": None,
        "top_p": 1,
        "user": "someone",
    }
    plain = client.completions.create(**ASKED)
    assert client.completions.create(**ASKED, **neutral, extra_body={"unheard_of": 1}).choices == plain.choices


def test_default_length_is_openais(client: openai.OpenAI) -> None:
    completion = client.completions.create(model=MODEL, prompt="hello")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 16


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "unmask"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("somebody/else")


def test_client_understands_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(**{**ASKED, "model": "gpt-4"})
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.completions.create(**ASKED, best_of=2)
    assert unsupported.value.param == "best_of"


@pytest.mark.parametrize("endpoint", ["chat/completions", "completions"])
def test_the_first_text_of_a_stream_comes_with_the_pass_that_the_server_counts_as_the_first(
    server: Live, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes are let through one by one. So no clock is needed to tell that what a client measures as the time to the
    first token is the server's own figure, up to one pass."""
    engine = server.app.state.backend.service.engine
    allowed, waiting, step = threading.Semaphore(0), threading.Semaphore(0), engine.step

    def one_by_one() -> Any:
        waiting.release()
        allowed.acquire()
        return step()

    def counted() -> float:
        return server.metric("unmask_time_to_first_token_seconds_count", scheduler="topk")

    said = {"messages": [{"role": "user", "content": "hello"}]} if "chat" in endpoint else {"prompt": "hello"}
    body = {
        **said,
        "max_tokens": 32,
        "block_length": 8,
        "stream": True,
        "scheduler": "topk",
        "min_tokens": 8,
        "seed": 1,
    }
    events, before, passes = list[str](), counted(), 0

    def read() -> None:
        with server.http.stream("POST", f"/v1/{endpoint}", json=body) as response:
            events.extend(response.iter_lines())

    def has_text() -> bool:
        choices = [json.loads(event[6:])["choices"] for event in [*events] if event.startswith("data: {")]
        return any(choice.get("text") or choice.get("delta", {}).get("content") for (choice,) in choices)

    reading = threading.Thread(target=read)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", one_by_one)
        reading.start()
        try:
            while waiting.acquire(timeout=PATIENCE) and not (first := counted() > before):
                assert not has_text()
                passes += 1
                allowed.release()
            assert first
            wait_for(has_text)
        finally:
            allowed.release(1000)
    reading.join()
    assert passes > 1
