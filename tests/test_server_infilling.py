"""Infilling over HTTP with the embedded model, whose gaps have one right answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live import ANSWER, QUESTION, Live, live
from tests.synthetic_block import synthetic_sdar
from unmask.models.tokenizer import Tokenizer

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}]}
GAPS = "1 + 8 =[MASK]\n9 +[MASK:3]\n15 - 4 = 11\n[MASK] + 9 = 20\n#### 20"


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(server: Live) -> Tokenizer:
    found: Tokenizer = server.app.state.backend.model.tokenizer
    return found


@pytest.mark.parametrize("scheduler", ["topk", "threshold", "random"])
def test_gaps_are_filled_with_what_fits(server: Live, scheduler: str) -> None:
    answer = server.generate(**ASKED, canvas=GAPS, scheduler=scheduler, seed=1)
    assert answer["canvas"] == ANSWER
    assert answer["text"] == " 9\n9 + 6 = 15\n15 - 4 = 11\n11"
    assert (answer["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 5)


def test_a_canvas_is_the_same_as_text_or_as_ids(server: Live, tokenizer: Tokenizer) -> None:
    ids: list[int | None] = []
    for piece in GAPS.replace("[MASK:3]", "[MASK]" * 3).split("[MASK]"):
        ids += [None, *tokenizer.encode(piece)] if ids else tokenizer.encode(piece)
    mask = server.app.state.backend.model.mask_id
    own = GAPS.replace("[MASK:3]", "[MASK]" * 3).replace("[MASK]", tokenizer.token_text(mask))
    same = [
        server.generate(**ASKED, canvas=canvas, **more)["token_ids"]
        for canvas, more in (
            (GAPS, {}),
            (ids, {}),
            ([mask if token is None else token for token in ids], {}),
            (own, {}),
            (GAPS.replace("[MASK:3]", "[MASK]" * 3).replace("[MASK]", "___"), {"mask_marker": "___"}),
            (GAPS.replace("[MASK", "<gap").replace("]", ">"), {"mask_marker": "<gap>"}),
        )
    ]
    assert all(other == same[0] for other in same)


def test_usage_and_figures_count_what_was_generated(server: Live, tokenizer: Tokenizer) -> None:
    before = server.metric("unmask_generation_tokens_total", scheduler="topk")
    answer = server.generate(**ASKED, canvas=GAPS)
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["diffusion"]["forward_passes"] == 5
    assert answer["diffusion"]["tokens_per_step"] == 1.0
    pieces = [tokenizer.encode(piece) for piece in ("1 + 8 =", "\n9 +", "\n15 - 4 = 11\n", " + 9 = 20\n#### 20")]
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.chat(ASKED["messages"])) + sum(map(len, pieces))
    assert server.metric("unmask_generation_tokens_total", scheduler="topk") == before + 5


def test_stream_tells_what_is_pinned_and_then_only_the_rest(server: Live, tokenizer: Tokenizer) -> None:
    events = server.events(**ASKED, canvas=GAPS, return_steps=True)
    start, done = events[0][1], events[-1][1]
    pinned = {position: token for position, token, _ in start["pinned"]}
    assert all(text == tokenizer.token_text(token) for _, token, text in start["pinned"])
    revealed = {one[0]: one[1] for name, data in events if name == "step" for one in data["revealed"]}
    assert pinned.keys().isdisjoint(revealed)
    assert pinned.keys() | revealed.keys() == set(range(start["length"]))
    assert [(pinned | revealed)[i] for i in range(start["length"])] == done["token_ids"]
    assert [step is None for step in done["token_steps"]] == [i in pinned for i in range(start["length"])]
    assert "".join(data["text"] for name, data in events if name == "block") == done["text"]
    assert done["canvas"] == ANSWER
    assert "pinned" not in server.events(**ASKED)[0][1]


def test_a_canvas_needs_no_prompt_and_may_begin_with_a_mask(server: Live) -> None:
    answer = server.generate(canvas="[MASK:2] 8 = 9\n[MASK:8]", prompt=QUESTION + "\n\n")
    assert answer["canvas"].startswith("1 + 8 = 9\n9 + 6 = 15\n15")
    alone = server.generate(canvas="[MASK:2] + 8 = 9\n")
    assert alone["usage"]["completion_tokens"] + alone["usage"]["prompt_tokens"] <= 7
    assert alone["canvas"].endswith(" + 8 = 9\n")


def test_an_end_of_text_ends_the_last_gap(server: Live) -> None:
    answer = server.generate(**ASKED, canvas=ANSWER + "[MASK:6]")
    assert (answer["canvas"], answer["finish_reason"], answer["text"]) == (ANSWER, "stop", "")


def test_suffix_leads_up_to_what_follows(server: Live) -> None:
    body = {"prompt": QUESTION + "\n\n", "max_tokens": 11, "suffix": "\n15 - 4 = 11\n11 + 9 = 20\n#### 20"}
    answer = server.http.post("/v1/completions", json=body).json()
    assert answer["choices"][0]["text"] == "1 + 8 = 9\n9 + 6 = 15"
    other = server.http.post("/v1/completions", json={**body, "suffix": None}).json()
    assert answer["usage"]["prompt_tokens"] > other["usage"]["prompt_tokens"]
    assert answer["usage"]["completion_tokens"] == other["usage"]["completion_tokens"] == 11


def test_suffix_is_refused_where_the_model_would_not_see_it(tmp_path: Path) -> None:
    with live(synthetic_sdar(tmp_path / "tiny", block_size=4)) as server:
        response = server.http.post("/v1/completions", json={"prompt": "a", "suffix": "b"})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "suffix")
        assert "does not see what follows" in response.json()["error"]["message"]
        answer = server.generate(prompt="a", canvas=[None, 7, None, 8, 9, None, 10])
        assert [answer["token_ids"][i] for i in (1, 3, 4)] == [7, 8, 9]
