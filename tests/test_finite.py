"""A model that computes "not a number" is refused, and a row that meets it ends with an error: never with a text."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.live import PATIENCE, Live, live, wait_for
from tests.outcomes import outcome
from tests.process import free_port, serving
from tests.synthetic import SINGLE_FILE, synthetic_llada
from unmask.cli import main
from unmask.engine import Engine, Request, Result
from unmask.engine.caching import parse_cache
from unmask.engine.errors import NotFiniteError
from unmask.models.loading import Model, load_model
from unmask.schedulers import parse_scheduler_text
from unmask.server.reply.sse import event

EMBEDDING, HEAD = "model.transformer.wte.weight", "model.transformer.ff_out.weight"
SICK = 100  # the token whose embedding is damaged
IN_FLOAT16 = "the model computes NaN in float16; use bfloat16 or float32"
DAMAGED = "the model computes NaN in float32; its weights are damaged or another network's; copy them anew"
PROMPT, SICK_PROMPT = (3, 4, 5), (SICK, 4, 5)


def edit(folder: Path, **tensors: Any) -> Path:
    """Change tensors of a checkpoint in place, each by its function."""
    state = load_file(folder / SINGLE_FILE)
    for name, change in tensors.items():
        change(state[{"embedding": EMBEDDING, "head": HEAD}[name]])
    save_file(state, folder / SINGLE_FILE)
    return folder


@pytest.fixture(scope="module")
def too_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine in float32; in float16 its sums have no room."""
    return edit(synthetic_llada(tmp_path_factory.mktemp("large") / "tiny"), embedding=lambda wte: wte.mul_(2e5))


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token has no embedding; and it is never proposed."""
    folder = synthetic_llada(tmp_path_factory.mktemp("sick") / "tiny")
    return edit(folder, embedding=lambda wte: wte[SICK].fill_(torch.nan), head=lambda head: head[SICK].zero_())


@pytest.fixture(scope="module")
def server(sick: Path) -> Iterator[Live]:
    with live(sick) as running:
        yield running


def refused(folder: Path, **changes: Any) -> str:
    """What /health says of a model that does not get ready."""
    with live(folder, ready=False, **changes) as server:
        wait_for(lambda: server.http.get("/health").status_code != 200)
        assert server.http.get("/ready").status_code == 503
        message: str = server.http.get("/health").json()["error"]["message"]
        return message


def test_a_dtype_that_is_too_small_is_refused_at_the_start(too_large: Path) -> None:
    assert refused(too_large, dtype="float16") == f"the model is not running: {IN_FLOAT16}"


@pytest.mark.parametrize("damage", [torch.nan, torch.inf])
def test_a_damaged_row_of_the_head_is_refused_at_the_start(tmp_path: Path, damage: float) -> None:
    folder = edit(synthetic_llada(tmp_path / "tiny"), head=lambda head: head[7].fill_(damage))
    assert refused(folder) == f"the model is not running: {DAMAGED}"


def test_the_process_ends_with_one_sentence(too_large: Path) -> None:
    with serving(too_large, free_port(), dtype="float16") as process:
        _, log = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert IN_FLOAT16 in log.splitlines()[-1]
    assert "Traceback" not in log


def test_generate_says_so(too_large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "hello", "--raw", "--model", str(too_large), "--device", "cpu", "--dtype", "float16"]
    with pytest.raises(SystemExit, match="1"):
        main(arguments)
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", f"unmask generate: {IN_FLOAT16}\n")


# --- a request that meets it ---


@pytest.fixture(scope="module")
def model(sick: Path) -> Model:
    return load_model(str(sick), device="cpu", dtype="float32")


def make(id: str, prompt: tuple[int, ...], **changes: Any) -> Request:
    plain = Request(id, prompt, 12, 4, parse_scheduler_text("topk"))
    return replace(plain, **changes)


def settle(engine: Engine, requests: list[Request]) -> tuple[dict[str, Result], list[str]]:
    """(results, ids of the requests that ended for want of numbers) of requests that run side by side."""
    for request in requests:
        engine.submit(request)
    results: dict[str, Result] = {}
    lost: list[str] = []
    while engine.running or engine.waiting:
        try:
            steps = engine.step()
        except NotFiniteError as error:
            lost += error.request_ids
            steps = list(error.steps)
        results |= {step.request_id: step.result for step in steps if step.result is not None}
    return results, lost


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("scheduler", ["topk", "klass:threshold=0:epsilon=0.0002:history=1", "eb"])
def test_only_the_row_that_meets_it_ends(model: Model, static: bool, cache: str, scheduler: str) -> None:
    how: dict[str, Any] = {"cache": parse_cache(cache), "scheduler": parse_scheduler_text(scheduler)}
    # The sick row comes first and is the longest, so that all padding would be its own.
    well = [make("short", PROMPT, **how), make("drawn", (3,) * 20, temperature=0.7, seed=5, **how)]
    sick = make("sick", SICK_PROMPT * 20, **how)
    alone = {request.id: outcome(Engine(model, static=static).results([request])[request.id]) for request in well}
    engine = Engine(model, static=static)
    results, lost = settle(engine, [sick, *well])
    assert lost == ["sick"]
    assert {id: outcome(result) for id, result in results.items()} == alone


def test_what_it_kept_is_forgotten(model: Model) -> None:
    """The next row in its slot, beside a longer one, masks columns that it had written: they count, times zero."""
    dual = parse_cache("dual")
    engine = Engine(model, max_rows=2)
    assert settle(engine, [make("sick", SICK_PROMPT * 15, cache=dual)]) == ({}, ["sick"])
    well, longer = make("well", PROMPT, cache=dual), make("longer", PROMPT * 15, cache=dual)
    found, lost = settle(engine, [well, longer])
    assert not lost
    assert outcome(found["well"]) == outcome(Engine(model).results([well])["well"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"return_steps": True}),
        ("/v1/completions", {"logprobs": 1}),
        ("/v1/completions", {"logprobs": 1, "echo": True, "max_tokens": 0}),
    ],
)
def test_it_is_told_and_no_text_is(server: Live, path: str, body: dict[str, Any]) -> None:
    prompt = {"input_ids": SICK_PROMPT} if path == "/generate" else {"prompt": SICK_PROMPT}
    response = server.http.post(path, json={**prompt, **body})
    assert response.status_code == 500
    error = response.json()["error"]
    assert (error["code"], error["type"], error["message"]) == ("model_not_finite", "server_error", DAMAGED)
    assert server.generate(input_ids=PROMPT, max_tokens=4)["token_ids"]


def test_streams_tell_it(server: Live) -> None:
    *_, (name, data) = server.events(input_ids=SICK_PROMPT)
    assert (name, data["code"]) == ("error", "model_not_finite")
    response = server.http.post("/v1/completions", json={"prompt": SICK_PROMPT, "stream": True})
    assert json.loads(response.text.split("\n\n")[0].removeprefix("data: "))["error"]["code"] == "model_not_finite"


def test_scores_tell_it(server: Live) -> None:
    response = server.http.post("/score", json={"input_ids": SICK_PROMPT, "completion": [3, 4]})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "model_not_finite")
    assert server.http.post("/score", json={"input_ids": PROMPT, "completion": [3, 4]}).status_code == 200


def test_a_lost_request_is_counted_as_an_error(server: Live) -> None:
    labels = {"scheduler": "topk", "finished_reason": "error"}
    before = server.metric("unmask_request_success_total", **labels)
    server.http.post("/generate", json={"input_ids": SICK_PROMPT})
    assert server.metric("unmask_request_success_total", **labels) == before + 1


def test_no_event_holds_what_json_does_not_have() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        event({"probability": math.nan})
