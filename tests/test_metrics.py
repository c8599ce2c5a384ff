"""What /metrics tells, under our names and vLLM's; and the dashboard, which may ask for nothing else."""

import json
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.live import Live, live, wait_for
from tests.synthetic import synthetic_llada
from unmask.server.ops.metrics import BETWEEN_TOKENS, FIRST_TOKEN, LATENCY
from unmask.server.ops.vllm_metrics import STEMS

DASHBOARD = Path(__file__).parents[1] / "docker" / "grafana" / "unmask.json"
ASKED: dict[str, Any] = {"prompt": "hello", "max_tokens": 16, "block_length": 8, "seed": 1}
WAITED = 50  # steps; the first pass of a short request takes less
LONG: dict[str, Any] = {"prompt": "hello", "max_tokens": 900}
# Neither metrics nor labels, in the expressions of the dashboard.
PROMQL = {"sum", "by", "rate", "histogram_quantile", "instance", "le"}

Samples = dict[str, list[tuple[dict[str, str], float]]]  # (labels, value) by name


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = synthetic_llada(tmp_path_factory.mktemp("model") / "tiny", max_sequence_length=1024)
    with live(folder, metrics_compat="vllm", max_rows=1, max_waiting=1) as running:
        for scheduler in ("topk", "entropy"):
            running.generate(**ASKED, scheduler={"name": scheduler, "n": 2}, cache="dual")
        fill(running)
        yield running


def fill(server: Live) -> None:
    """Let one request run, one wait and one be refused."""
    with server.running(**LONG):
        with server.http.stream("POST", "/generate", json={**LONG, "stream": True}):
            assert server.http.post("/generate", json=ASKED).status_code == 429
            assert server.http.get("/load").json() == {"server_load": 2}
        wait_for(lambda: server.metric("unmask_num_requests_waiting") == 0)
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)


def samples(server: Live) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(server.http.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    return sum(value for given, value in found[name] if given.items() >= labels.items())


def test_generation_is_measured_in_full(server: Live) -> None:
    found = samples(server)
    exact = {
        "unmask_request_prompt_tokens_sum": 5,
        "unmask_request_generation_tokens_sum": 16,
        "unmask_request_params_max_tokens_sum": 16,
        "unmask_forward_passes_total": 8,
        "unmask_canvas_positions_total": 8 * 8,
        "unmask_revealed_tokens_total": 16,
        "unmask_remasked_tokens_total": 0,
        "unmask_blocks_total": 2,
        "unmask_request_decode_time_seconds_count": 1,
    }
    for name, value in exact.items():
        assert total(found, name, scheduler="entropy") == value, name
    seconds = {
        part: total(found, f"unmask_request_{part}_time_seconds_sum", scheduler="entropy")
        for part in ("queue", "prefill", "decode", "inference")
    }
    whole = total(found, "unmask_e2e_request_latency_seconds_sum", scheduler="entropy")
    assert all(value > 0 for value in seconds.values())
    assert seconds["prefill"] + seconds["decode"] == pytest.approx(seconds["inference"])
    assert seconds["queue"] + seconds["inference"] <= whole
    each = total(found, "unmask_request_time_per_output_token_seconds_sum", scheduler="entropy")
    assert each == pytest.approx(seconds["inference"] / 16)
    first = total(found, "unmask_time_to_first_token_seconds_sum", scheduler="entropy")
    between = total(found, "unmask_inter_token_latency_seconds_sum", scheduler="entropy")
    assert first > 0
    assert first + between <= whole


def test_waiting_is_no_part_of_the_first_pass(server: Live) -> None:
    with ThreadPoolExecutor() as pool, server.running(**LONG) as events:
        answer = pool.submit(server.generate, **ASKED, scheduler="margin")
        wait_for(lambda: server.metric("unmask_num_requests_waiting") == 1)
        for _ in range(WAITED):
            next(events)
        running = answer.running()
    assert running
    assert answer.result()["diffusion"]["queue_seconds"] > 0
    queue, prefill = (
        total(samples(server), f"unmask_request_{part}_time_seconds_sum", scheduler="margin")
        for part in ("queue", "prefill")
    )
    assert prefill < queue / 2


def test_passes_of_the_engine_are_counted(server: Live) -> None:
    before = samples(server)
    server.generate(**ASKED, scheduler={"name": "topk", "n": 4})
    after = samples(server)
    names = ("iteration_rows_count", "iteration_rows_sum", "iteration_tokens_count", "iteration_tokens_sum")
    assert [total(after, f"unmask_{name}") - total(before, f"unmask_{name}") for name in names] == [4, 4, 4, 16]


def test_what_was_not_taken_and_what_was_given_up_are_counted(server: Live) -> None:
    found = samples(server)
    assert total(found, "unmask_admission_rejections_total", reason="queue_full") == 1
    assert total(found, "unmask_request_success_total", finished_reason="abort") >= 2
    assert total(found, "unmask_http_requests_total", path="/generate", status="429") == 1


def test_cache_is_free_again(server: Live) -> None:
    used: list[float] = []
    with server.running(**LONG, cache="dual"):
        used.append(server.metric("unmask_kv_cache_usage_perc"))
    wait_for(lambda: server.metric("unmask_num_requests_running") == 0)
    assert 0 < used[0] <= 1
    assert server.metric("unmask_kv_cache_usage_perc") == 0


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("e2e_request_latency_seconds", LATENCY),
        ("request_queue_time_seconds", LATENCY),
        ("time_to_first_token_seconds", FIRST_TOKEN),
        ("inter_token_latency_seconds", BETWEEN_TOKENS),
    ],
)
def test_buckets(server: Live, name: str, bounds: tuple[float, ...]) -> None:
    for prefix in ("unmask_", "vllm:"):
        buckets = [labels["le"] for labels, _ in samples(server)[f"{prefix}{name}_bucket"]]
        assert sorted(set(map(float, buckets))) == [*bounds, math.inf]


def test_vllm_names_tell_the_same(server: Live) -> None:
    found = samples(server)
    theirs = {name.removeprefix("vllm:") for name in found if name.startswith("vllm:")}
    suffixes = re.compile(r"(_total|_bucket|_count|_sum)$")
    assert {suffixes.sub("", name) for name in theirs} == STEMS.keys() | {"num_preemptions"}
    for name in theirs - {"num_preemptions_total"}:
        stem = suffixes.sub("", name)
        ours = f"unmask_{STEMS[stem]}{name.removeprefix(stem)}"
        assert total(found, f"vllm:{name}") == total(found, ours), name
        assert all(labels.items() >= {("model_name", "tiny"), ("engine", "0")} for labels, _ in found[f"vllm:{name}"])
        assert not any("scheduler" in labels for labels, _ in found[f"vllm:{name}"])
    assert total(found, "vllm:request_success_total", finished_reason="length") >= 2
    assert total(found, "vllm:diffusion_num_denoising_steps_total") > 0


def test_vllm_names_are_left_out_by_default(tmp_path: Path) -> None:
    with live(synthetic_llada(tmp_path)) as server:
        assert not [name for name in samples(server) if name.startswith("vllm:")]


def test_dashboard_asks_for_what_there_is(server: Live) -> None:
    found = samples(server)
    board = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 20
    for expression in expressions:
        names = set(re.findall(r"(?:unmask|process)_\w+", expression))
        assert names
        assert names <= found.keys(), expression
        known = {label for name in names for labels, _ in found[name] for label in labels}
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        assert grouped <= known, expression
        words = set(re.findall(r"(?<![$\w])[a-z_][a-z_0-9]+", re.sub(r'"[^"]*"', "", expression)))
        assert words <= names | known | PROMQL, expression


def test_ping_is_health(server: Live) -> None:
    response = server.http.get("/ping")
    assert (response.status_code, response.content) == (200, b"")
