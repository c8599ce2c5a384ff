"""`/score` with the embedded model, against its network asked directly."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tests.live import ANSWER, QUESTION, Live, live, wait_for
from unmask.models.loading import Model

ROUNDING = 1e-4
MESSAGES = [{"role": "user", "content": QUESTION}]
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "completion", "is missing"),
    ({"completion": ""}, "completion", "holds no tokens"),
    ({"completion": []}, "completion", "holds no tokens"),
    ({"completion": "a<|mdm_mask|>"}, "completion", "holds a mask"),
    ({"completion": [999]}, "completion", "token id 999"),
    ({"completion": 5}, "completion", "must be a text or a list of token ids"),
    ({"completion": "a", "prompt": "b", "input_ids": [1]}, "prompt", "at most one of the fields"),
    ({"completion": [1, 2], "patterns": [[0], [2]]}, "patterns.1", "different positions from 0 to 1"),
    ({"completion": [1, 2], "patterns": [[1, 1]]}, "patterns.0", "different positions"),
    ({"completion": [1, 2], "patterns": [[-1]]}, "patterns.0.0", "greater than or equal to 0"),
    ({"completion": [1, 2], "patterns": [[]]}, "patterns.0", "at least 1 item"),
    ({"completion": [1, 2], "patterns": []}, "patterns", "at least 1 item"),
    ({"completion": [1, 2], "coupled_pairs": 65}, "coupled_pairs", "less than or equal to 64"),
    ({"completion": [1, 2], "likelihood_samples": 0}, "likelihood_samples", "greater than or equal to 1"),
    ({"completion": [1] * 300, "input_ids": [1] * 300}, "completion", "make 600; at most 212 fit, shorten one of them"),
    (
        {"completion": [1] * 511, "patterns": [[0]] * 1024, "likelihood_samples": 1024, "coupled_pairs": 64},
        "completion",
        "asks for passes over 1112447 tokens in total",
    ),
    ({"completion": "a", "max_tokens": 3}, "max_tokens", "unknown field 'max_tokens'; the fields are: model, prompt"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture(scope="module")
def model(server: Live) -> Model:
    found: Model = server.app.state.backend.model
    return found


def score(server: Live, **body: Any) -> dict[str, Any]:
    response = server.http.post("/score", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@torch.no_grad()
def directly(model: Model, completion: list[int], masked: list[int]) -> list[float]:
    prompt = model.tokenizer.chat(MESSAGES)
    seen = [model.mask_id if i in masked else token for i, token in enumerate(completion)]
    log_p = model.network.logits(torch.tensor([[*prompt, *seen]]))[0, len(prompt) :].log_softmax(-1)
    return [log_p[i, completion[i]].item() for i in masked]


def test_patterns(server: Live, model: Model) -> None:
    patterns = [[3, 0, 7], [*range(20)]]
    answer = score(server, messages=MESSAGES, completion=ANSWER, patterns=patterns)
    ids = model.tokenizer.encode(ANSWER)
    assert answer["token_ids"] == ids
    assert answer["tokens"] == [model.tokenizer.token_text(id) for id in ids]
    assert [one["masked"] for one in answer["patterns"]] == patterns
    for one in answer["patterns"]:
        assert one["log_probabilities"] == pytest.approx(directly(model, ids, one["masked"]), abs=ROUNDING)
        assert one["sum"] == pytest.approx(sum(one["log_probabilities"]))
    assert answer.keys() == {"id", "model", "token_ids", "tokens", "patterns", "forward_passes", "usage"}
    assert answer["forward_passes"] == 2
    assert answer["usage"]["total_tokens"] == len(ids) + len(model.tokenizer.chat(MESSAGES))


def test_by_default_everything_is_masked(server: Live, model: Model) -> None:
    (one,) = score(server, messages=MESSAGES, completion=ANSWER)["patterns"]
    ids = model.tokenizer.encode(ANSWER)
    assert one["masked"] == [*range(len(ids))]
    assert one["log_probabilities"] == pytest.approx(directly(model, ids, one["masked"]), abs=ROUNDING)
    raw = score(server, completion=ids)["patterns"][0]
    assert raw["sum"] < one["sum"]


@pytest.mark.parametrize("pairs", [1, 3])
def test_coupled_pairs_are_means_over_what_they_tell(server: Live, model: Model, pairs: int) -> None:
    answer = score(server, messages=MESSAGES, completion=ANSWER, coupled_pairs=pairs, seed=4)
    ids, told = model.tokenizer.encode(ANSWER), answer["coupled"]
    assert "patterns" not in answer
    everything = [*range(len(ids))]
    assert all(sorted(a + b) == everything for a, b in zip(told["masks"][::2], told["masks"][1::2], strict=True))
    sums = [0.0] * len(ids)
    for masked in [*told["masks"], everything]:
        for position, value in zip(masked, directly(model, ids, masked) if masked else [], strict=True):
            sums[position] += value
    assert told["log_probabilities"] == pytest.approx([total / (pairs + 1) for total in sums], abs=ROUNDING)
    assert score(server, messages=MESSAGES, completion=ANSWER, coupled_pairs=pairs, seed=4)["coupled"] == told
    assert score(server, messages=MESSAGES, completion=ANSWER, coupled_pairs=pairs)["coupled"]["masks"] != told["masks"]


def test_pairs_of_one_token(server: Live) -> None:
    answer = score(server, messages=MESSAGES, completion=[16], coupled_pairs=2)
    assert answer["coupled"]["masks"] == [[0], [], [0], []]
    assert answer["forward_passes"] == 3
    alone = score(server, messages=MESSAGES, completion=[16])["patterns"][0]["sum"]
    assert answer["coupled"]["sum"] == pytest.approx(alone)


def test_the_bound_prefers_the_right_answer_and_settles(server: Live, model: Model) -> None:
    wrong = ANSWER.replace("#### 20", "#### 21")
    right, other = (
        score(server, messages=MESSAGES, completion=text, likelihood_samples=64)["likelihood"]
        for text in (ANSWER, wrong)
    )
    assert right["samples"] == 64
    assert right["log_likelihood"] > other["log_likelihood"] + 1
    assert right["log_likelihood"] < 0 < right["standard_error"]
    again = score(server, messages=MESSAGES, completion=ANSWER, likelihood_samples=64, seed=9)["likelihood"]
    spread = 4 * (right["standard_error"] + again["standard_error"])
    assert again["log_likelihood"] == pytest.approx(right["log_likelihood"], abs=spread)
    one = score(server, messages=MESSAGES, completion=[16], likelihood_samples=1)
    exact = directly(model, [16], [0])[0]
    assert one["likelihood"] == {"samples": 1, "log_likelihood": pytest.approx(exact, abs=ROUNDING)}


def test_all_at_once(server: Live) -> None:
    answer = score(server, prompt=QUESTION, completion=ANSWER, patterns=[[0]], coupled_pairs=2, likelihood_samples=3)
    assert answer["forward_passes"] == 1 + 5 + 3
    assert [len(answer["patterns"]), len(answer["coupled"]["masks"]), answer["likelihood"]["samples"]] == [1, 4, 3]


def test_scores_and_answers_side_by_side_are_those_alone(server: Live) -> None:
    def ask(i: int) -> Any:
        if i % 2:
            return server.generate(messages=MESSAGES, scheduler="topk")["text"]
        return score(server, messages=MESSAGES, completion=ANSWER, coupled_pairs=8, seed=i)["coupled"]["sum"]

    alone = [ask(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(8)))
    assert together[1::2] == alone[1::2]
    assert together[::2] == pytest.approx(alone[::2], abs=ROUNDING)


def test_a_full_queue_refuses(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = server.app.state.backend
    monkeypatch.setattr(backend, "_scoring", backend.settings.max_waiting)
    response = server.http.post("/score", json={"completion": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
    monkeypatch.undo()
    assert score(server, completion="a")


def test_a_fault_is_told_and_passes(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("unmask.engine.engine.answers", lambda *args: 1 / 0)
        response = server.http.post("/score", json={"completion": "a"})
    assert (response.status_code, response.json()["error"]["type"]) == (500, "server_error")
    assert score(server, completion="a")
    wait_for(lambda: server.app.state.backend._scoring == 0)


def test_a_client_that_leaves_is_not_scored_to_the_end(server: Live) -> None:
    backend = server.app.state.backend
    server.leave("/score", lambda: backend._scoring == 1, completion=[1] * 400, likelihood_samples=1024)
    wait_for(lambda: backend._scoring == 0)  # within a pass: all of them take a minute


@pytest.mark.parametrize(("body", "param", "message"), BAD, ids=lambda value: str(value)[:40])
def test_score_refuses(server: Live, body: dict[str, Any], param: str, message: str) -> None:
    response = server.http.post("/score", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert message in response.json()["error"]["message"]
