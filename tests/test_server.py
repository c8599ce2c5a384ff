"""The native and the information endpoints, over a real socket, with the real engine and a tiny real checkpoint."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.live import Live, live, wait_for
from tests.synthetic import synthetic_llada
from unmask.engine.ar_ness import global_ar_ness, local_ar_ness
from unmask.schedulers import scheduler_names

ROUNDING = 1e-6
POSITIONS = 1024  # long enough that a request is still running when another one comes
PASSES = 1000
STEP = 0.1  # seconds, made long enough to count steps by
LONG: dict[str, Any] = {"prompt": "hello", "max_tokens": PASSES, "block_length": 8}
SHORT: dict[str, Any] = {"prompt": "hello", "max_tokens": 16, "block_length": 8, "seed": 1}

DIFFUSION = {
    "scheduler",
    "block_length",
    "length",
    "cache",
    "input_state",
    "steps",
    "forward_passes",
    "tokens_per_step",
    "tokens_per_second",
    "queue_seconds",
    "generate_seconds",
}
SIXTEEN: list[dict[str, Any]] = [
    {"prompt": "abc" * (i % 5 + 1), "scheduler": name, "block_length": block, "seed": i, "temperature": i % 3 / 2}
    | {"max_tokens": 8 + 3 * (i % 4), "top_p": 1 - 0.1 * (i % 2)}
    for i, (name, block) in enumerate(
        (name, block)
        for block in (4, 5, 32)
        for name in (
            "topk",
            "random",
            "margin",
            "entropy",
            "threshold",
            {"name": "factor", "factor": 8},
            {"name": "topk", "n": 3},
        )
    )
][:16]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_llada(tmp_path_factory.mktemp("model") / "tiny", max_sequence_length=POSITIONS)
    with live(folder) as running:
        yield running


def test_generate_answers_with_text_and_diffusion(server: Live) -> None:
    answer = server.generate(**SHORT, scheduler={"name": "topk", "n": 2})
    assert answer["diffusion"].keys() == DIFFUSION
    assert answer["diffusion"]["scheduler"] == {"name": "topk", "n": 2, "steps": None}
    assert answer["diffusion"]["block_length"] == 8
    assert answer["diffusion"]["steps"] == answer["diffusion"]["forward_passes"] == 8
    assert answer["diffusion"]["tokens_per_step"] == len(answer["token_ids"]) / 8
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}
    assert (answer["model"], answer["finish_reason"]) == ("tiny", "length")
    assert answer["text"]


def test_the_cache_is_chosen_by_request_and_told_in_the_answer(server: Live) -> None:
    answers = {cache: server.generate(**SHORT, cache=cache) for cache in ("none", "dual:refresh=1", "dual", "auto")}
    assert [answer["diffusion"]["cache"] for answer in answers.values()] == ["none", "dual:refresh=1", "dual", "none"]
    assert answers["none"]["token_ids"] == answers["dual:refresh=1"]["token_ids"] == answers["auto"]["token_ids"]


def test_three_kinds_of_prompt(server: Live) -> None:
    ids = server.app.state.backend.model.tokenizer
    messages = [{"role": "user", "content": "hello"}]
    raw, asked = server.generate(**SHORT), server.generate(**{**SHORT, "prompt": None}, messages=messages)
    as_ids = {key: value for key, value in SHORT.items() if key != "prompt"}
    assert server.generate(**as_ids, input_ids=ids.encode("hello"))["token_ids"] == raw["token_ids"]
    assert server.generate(**as_ids, input_ids=ids.chat(messages))["token_ids"] == asked["token_ids"]
    assert raw["token_ids"] != asked["token_ids"]


def test_stream_tells_every_step_in_order(server: Live) -> None:
    events = server.events(**SHORT)
    names = [name for name, _ in events]
    assert names == ["start", *["step"] * 8, "block", *["step"] * 8, "block", "done"]
    _, start = events[0]
    assert start.keys() == {"id", "model", "prompt_tokens", "length", "block_length", "scheduler"}
    assert (start["prompt_tokens"], start["length"], start["block_length"]) == (5, 16, 8)
    assert [data["step"] for name, data in events if name == "step"] == list(range(16))


def test_steps_and_blocks_make_up_what_is_done(server: Live) -> None:
    events = server.events(**SHORT, threshold=0.1)
    whole = server.generate(**SHORT, threshold=0.1)
    canvas = {one[0]: one[1] for name, data in events if name == "step" for one in data["revealed"]}
    text = "".join(data["text"] for name, data in events if name == "block")
    (_, done) = events[-1]
    assert [canvas[position] for position in sorted(canvas)] == done["token_ids"] == whole["token_ids"]
    assert text == done["text"] == whole["text"]
    assert done["diffusion"].keys() == DIFFUSION


def test_steps_are_told_token_by_token_if_asked(server: Live) -> None:
    asked = {**SHORT, "scheduler": {"name": "topk", "n": 3}, "return_steps": True}
    events = server.events(**asked)
    revealed = {
        position: (data["step"], token, probability)
        for name, data in events
        if name == "step"
        for position, token, _, probability in data["revealed"]
    }
    done = events[-1][1]
    assert revealed.keys() == set(range(16))
    told = zip(done["token_steps"], done["token_ids"], done["token_confidences"], strict=True)
    assert list(told) == [revealed[position] for position in range(16)]
    order = sorted(revealed, key=lambda position: (revealed[position][0], position))
    local, whole = local_ar_ness(order), global_ar_ness(order)
    assert done["diffusion"]["ar_ness"] == pytest.approx({"local": local, "global": whole}, abs=ROUNDING)
    whole_answer = server.generate(**asked)
    assert (whole_answer["token_steps"], whole_answer["token_confidences"]) == (
        done["token_steps"],
        done["token_confidences"],
    )
    assert "token_steps" not in server.generate(**SHORT)


def test_revealed_tokens_have_text_and_probability(server: Live) -> None:
    tokenizer = server.app.state.backend.model.tokenizer
    for name, data in server.events(**SHORT):
        for _, token_id, text, probability in data["revealed"] if name == "step" else ():
            assert text == tokenizer.token_text(token_id)
            assert 0 < probability <= 1


@pytest.mark.parametrize(
    ("fields", "scheduler"),
    [
        ({}, {"name": "topk", "n": 1, "steps": None}),
        ({"steps": 4}, {"name": "topk", "n": 1, "steps": 4}),
        ({"steps": 4, "scheduler": "random"}, {"name": "random", "n": 1, "steps": 4}),
        ({"threshold": 0.5}, {"name": "threshold", "threshold": 0.5}),
        ({"scheduler": "factor"}, {"name": "factor", "factor": 1.0}),
        ({"scheduler": {"name": "factor", "factor": 2}}, {"name": "factor", "factor": 2.0}),
    ],
)
def test_scheduler_is_chosen_by_request(server: Live, fields: dict[str, Any], scheduler: dict[str, Any]) -> None:
    assert server.generate(**SHORT, **fields)["diffusion"]["scheduler"] == scheduler


def test_settings_give_the_defaults(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "default_scheduler": "margin",
        "default_block_length": 4,
        "default_max_tokens": 6,
        "served_model_name": "x",
    }
    with live(synthetic_llada(tmp_path), **changes) as server:
        answer = server.generate(prompt="a")
    assert answer["diffusion"]["scheduler"]["name"] == "margin"
    assert answer["diffusion"]["block_length"] == 4
    assert len(answer["token_ids"]) == 6
    assert answer["model"] == "x"


def test_sampling_fields_reach_the_engine(server: Live) -> None:
    hot = {**SHORT, "temperature": 2.0}
    assert server.generate(**hot)["text"] == server.generate(**hot)["text"]
    assert server.generate(**hot)["text"] != server.generate(**{**hot, "seed": 2})["text"]
    assert server.generate(**hot, top_k=1)["text"] == server.generate(**SHORT)["text"]
    assert server.generate(**hot, top_p=1e-9)["text"] == server.generate(**SHORT)["text"]
    assert server.generate(**SHORT, max_forward_passes=2)["diffusion"]["forward_passes"] == 2
    unseeded = {key: value for key, value in hot.items() if key != "seed"}
    assert server.generate(**unseeded)["text"] != server.generate(**unseeded)["text"]


def test_stop_text_ends_the_generation(server: Live) -> None:
    text = server.generate(**SHORT)["text"]
    stopped = server.generate(**SHORT, stop=text[5:7])
    assert (stopped["text"], stopped["finish_reason"]) == (text[: text.index(text[5:7])], "stop")


def test_sixteen_at_once_equal_each_alone(server: Live) -> None:
    def outcome(body: dict[str, Any]) -> tuple[Any, ...]:
        answer = server.generate(**body)
        return answer["text"], answer["token_ids"], answer["diffusion"]["forward_passes"]

    alone = [outcome(body) for body in SIXTEEN]
    with ThreadPoolExecutor(len(SIXTEEN)) as pool:
        assert list(pool.map(outcome, SIXTEEN)) == alone


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_client_that_leaves_frees_its_row(server: Live, stream: bool) -> None:
    cancelled = {"finished_reason": "abort", "scheduler": "topk"}
    before = server.metric("unmask_request_success_total", **cancelled)
    passes = server.metric("unmask_forward_passes_total", scheduler="topk")
    _leave(server, stream)
    wait_for(lambda: server.metric("unmask_request_success_total", **cancelled) == before + 1)
    assert server.metric("unmask_num_requests_running") == 0
    assert server.metric("unmask_forward_passes_total", scheduler="topk") < passes + PASSES


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_row_is_free_within_a_step(server: Live, monkeypatch: pytest.MonkeyPatch, path: str, stream: bool) -> None:
    steps: list[int] = []  # rows after each
    engine = server.app.state.backend.service.engine
    step = engine.step

    def slow() -> Any:
        time.sleep(STEP)
        done = step()
        steps.append(engine.running)
        return done

    monkeypatch.setattr(engine, "step", slow)
    server.leave(path, lambda: len(steps) >= 2, **{**LONG, "stream": stream})
    left = len(steps)
    wait_for(lambda: engine.running == 0)
    assert len(steps) <= left + 2  # the one that was under way, and one that began before the news came


def _leave(server: Live, stream: bool) -> None:
    """Start a long request and close the connection while it runs."""
    if stream:
        with server.running(**LONG):
            pass
    else:
        server.leave("/generate", lambda: server.metric("unmask_num_requests_running") == 1, **LONG)


def test_metrics_count_what_was_done(server: Live) -> None:
    names = {
        "unmask_request_success_total": {"scheduler": "entropy", "finished_reason": "length"},
        "unmask_prompt_tokens_total": {"scheduler": "entropy"},
        "unmask_generation_tokens_total": {"scheduler": "entropy"},
        "unmask_forward_passes_total": {"scheduler": "entropy"},
        "unmask_request_steps_sum": {"scheduler": "entropy"},
        "unmask_tokens_per_step_sum": {"scheduler": "entropy"},
        "unmask_request_queue_time_seconds_count": {"scheduler": "entropy"},
        "unmask_time_to_first_token_seconds_count": {"scheduler": "entropy"},
        "unmask_e2e_request_latency_seconds_count": {"scheduler": "entropy"},
        "unmask_http_requests_total": {"method": "POST", "path": "/generate", "status": "200"},
    }
    before = [server.metric(name, **labels) for name, labels in names.items()]
    server.generate(**SHORT, scheduler={"name": "entropy", "n": 2})
    after = [server.metric(name, **labels) for name, labels in names.items()]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 5, 16, 8, 8, 2, 1, 1, 1, 1]


def test_running_and_waiting_are_gauges(server: Live) -> None:
    with server.running(**LONG):
        assert server.metric("unmask_num_requests_running") == 1
        assert server.metric("unmask_num_requests_waiting") == 0
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)


def test_schedulers_are_described(server: Live) -> None:
    listed = {one["name"]: one for one in server.http.get("/v1/schedulers").json()["data"]}
    assert list(listed) == scheduler_names()
    assert listed["threshold"]["description"].startswith("Reveals every eligible position whose confidence exceeds")
    assert listed["threshold"]["options"]["properties"]["threshold"]["default"] == 0.9


def test_service_endpoints(server: Live) -> None:
    get = server.http.get
    assert get("/health").json() == {"status": "ok"}
    assert get("/ready").json() == {"status": "ready", "model": "tiny"}
    assert get("/version").json().keys() == {"version"}
    assert get("/v1/models/tiny").json() == get("/v1/models").json()["data"][0]
    assert get("/v1/models/tiny").json()["max_model_len"] == POSITIONS


def test_request_id_is_echoed_and_used(server: Live) -> None:
    response = server.http.post("/generate", json=SHORT, headers={"X-Request-Id": "mine.1"})
    assert response.headers["x-request-id"] == "mine.1"
    assert response.json()["id"] == "gen-mine.1"
    odd = server.http.get("/version", headers={"X-Request-Id": "not an id"})
    assert len(odd.headers["x-request-id"]) == 32


def test_documentation_knows_no_422(server: Live) -> None:
    document = server.http.get("/openapi.json").json()
    responses = document["paths"]["/generate"]["post"]["responses"]
    assert {"200", "400", "404", "429", "503"} <= responses.keys()
    assert "422" not in responses
    assert "text/event-stream" in responses["200"]["content"]
