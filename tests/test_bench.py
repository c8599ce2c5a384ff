"""The benchmark: what it compares with is what was published, what it counts is right, and both sides answer alike."""

import gc
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.live import live
from tests.oracle import llada_generate
from tests.synthetic import synthetic_dream, synthetic_llada
from tests.synthetic_block import synthetic_sdar
from unmask import cli
from unmask.engine.caching import parse_cache
from unmask.engine.engine import Engine
from unmask.engine.request import Request
from unmask.errors import UserError
from unmask.evals.bench.http import arrivals, run_http, serving, settles
from unmask.evals.bench.load import open_loop
from unmask.evals.bench.memory import peak_bytes, reset_peak
from unmask.evals.bench.offline import profile_offline, run_offline
from unmask.evals.bench.reference import generate, logits_of, require_plain, run_reference
from unmask.evals.bench.roofline import Machine, Work, bytes_moved, operations, reached
from unmask.evals.bench.runs import BenchAnswer, Comparison, Run, Spread, alternate, percentile, spreads
from unmask.evals.bench.workload import workload
from unmask.models.architecture import Experts
from unmask.models.loading import Model, load_model
from unmask.models.transformer import MaskedTransformer
from unmask.schedulers import parse_scheduler
from unmask.settings import ModelSettings

CLOSE = 1e-4  # of logits, in float32, between two orders of the same sums
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_model("llada-nano", device="cpu", dtype="float32")


def toy(folder: Path) -> Model:
    return load_model(str(synthetic_llada(folder)), device="cpu", dtype="float32")


def asked(model: Model, count: int, scheduler: str = "topk", *lengths: int) -> list[Request]:
    return workload(model, count, 0, lengths, parse_scheduler(scheduler), parse_cache("none"), 32)


@pytest.mark.parametrize("synthetic", [synthetic_llada, synthetic_dream])
def test_the_plain_network_is_the_network_of_the_model(synthetic: Callable[[Path], Path], tmp_path: Path) -> None:
    model = load_model(str(synthetic(tmp_path)), device="cpu", dtype="float32")
    tokens = torch.randint(model.vocab_size, (2, 19), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.network.logits(tokens)
        torch.testing.assert_close(logits_of(model.network, tokens), expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(("steps", "block_length"), [(16, 16), (16, 8), (6, 8), (4, 4)])
def test_the_published_loop_is_the_oracle(steps: int, block_length: int, tmp_path: Path) -> None:
    model, prompt = toy(tmp_path), [5, 9, 2, 77]
    canvas = torch.tensor([prompt + [model.mask_id] * 16])
    generate(model.network.logits, canvas, steps, 16, block_length, model.mask_id)
    expected = llada_generate(model.network.logits, prompt, steps, 16, block_length, model.mask_id)
    assert canvas[0, len(prompt) :].tolist() == expected


def test_a_last_block_that_is_shorter_gets_its_share_of_the_steps(tmp_path: Path) -> None:
    model, canvases = toy(tmp_path), []

    def watched(x: torch.Tensor) -> torch.Tensor:
        canvases.append(x.clone())
        return model.network.logits(x)

    canvas = torch.tensor([[5, 9, *[model.mask_id] * 12]])
    generate(watched, canvas, 12, 12, 8, model.mask_id)
    masks = [(x[0, 2:10] == model.mask_id).sum().item() for x in canvases]
    assert masks == [8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0, 0]


def test_a_network_that_the_reference_does_not_know_is_refused(tmp_path: Path) -> None:
    network = toy(tmp_path).network
    require_plain(network)
    network.architecture = replace(network.architecture, block_size=4)
    with pytest.raises(UserError, match="this model has block_size"):
        require_plain(network)


def test_the_engine_alone_and_side_by_side_answers_what_the_reference_answers(nano: Model) -> None:
    requests = asked(nano, 4)
    reference, engine = run_reference(nano, requests), Engine(nano, max_rows=3)
    for concurrency in (1, 3):
        run = run_offline(engine, requests, concurrency)
        assert [answer.token_ids for answer in run.answers] == [answer.token_ids for answer in reference.answers]
        assert all(0 < (answer.first_seconds or 0) <= answer.seconds for answer in run.answers)
    assert [answer.forward_passes for answer in reference.answers] == [request.max_tokens for request in requests]
    assert not nano.stop_ids & {token for answer in reference.answers for token in answer.token_ids}


def test_a_closed_loop_sends_the_next_request_when_one_is_answered(nano: Model) -> None:
    engine, most = Engine(nano, max_rows=8), []
    submit = engine.submit

    def counted(request: Request) -> None:
        submit(request)
        most.append(engine.running + engine.waiting)

    engine.submit = counted  # type: ignore[method-assign]
    run_offline(engine, asked(nano, 7, "threshold"), 3)
    assert len(most) == 7
    assert max(most) == 3


def test_the_server_answers_what_the_engine_answers(nano: Model) -> None:
    requests = asked(nano, 6, "threshold")
    expected = [answer.token_ids for answer in run_offline(Engine(nano, max_rows=2), requests, 2).answers]
    with live("llada-nano") as server:
        for rate, stream in ((None, True), (50.0, True), (None, False)):
            run = run_http(server.url, requests, 2, rate, seed=0, stream=stream)
            assert [answer.token_ids for answer in run.answers] == expected
            if stream:
                assert all(0 < (answer.first_seconds or 0) <= answer.seconds for answer in run.answers)
            else:
                assert {answer.first_seconds for answer in run.answers} == {None}
        too_long = [replace(requests[0], max_tokens=100_000)]
        with pytest.raises(UserError, match=r"did not answer a request: .*100000"):
            run_http(server.url, too_long, 1, None, seed=0, stream=False)


def test_a_server_that_does_not_start_is_reported_with_the_last_line_of_its_log() -> None:
    with (
        pytest.raises(UserError, match=r"the server for --http ended: .*model 'nowhere' is no folder"),
        serving(ModelSettings(model="nowhere"), 1, 1),
    ):
        pass


def test_a_token_is_settled_when_the_leftmost_is_there_or_where_it_may_go_again_when_its_block_is() -> None:
    events: list[tuple[str, dict[str, Any]]] = [
        ("step", {"revealed": [[1, 8, "b", 0.9], [0, 7, "a", 0.9]]}),
        ("step", {"revealed": [[1, 8, "b", 0.9]]}),
        ("block", {"text": "ab"}),
        ("block", {"text": ""}),
    ]
    assert [settles(*event, may_remask=False) for event in events] == [True, False, True, False]
    assert [settles(*event, may_remask=True) for event in events] == [False, False, True, False]


def test_arrivals_come_at_the_rate_and_by_the_seed() -> None:
    times = arrivals(4000, 8.0, seed=1)
    assert times == sorted(times) == arrivals(4000, 8.0, seed=1) != arrivals(4000, 8.0, seed=2)
    assert times[-1] == pytest.approx(500, rel=0.1)  # six standard deviations
    gaps = [after - before for before, after in pairwise(times)]
    assert sum(gap > 1 / 8 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.05)


def test_a_workload_mixes_tasks_and_lengths_and_repeats(nano: Model) -> None:
    requests = asked(nano, 8, "topk", 16, 48)
    assert [request.max_tokens for request in requests] == [16, 16, 48, 48, 16, 16, 48, 48]
    assert [request.block_length for request in requests[:4]] == [16, 16, 32, 32]
    assert [request.max_tokens for request in asked(nano, 4)] == [64, 48, 64, 48]
    assert len({request.prompt for request in requests}) == 8
    assert asked(nano, 8, "topk", 16, 48) == requests
    with pytest.raises(UserError, match="--max-tokens of 500 tokens are more than the 512 positions"):
        asked(nano, 1, "topk", 500)


def test_rounds_alternate_their_order() -> None:
    order: list[str] = []

    def contestant(name: str) -> Callable[[], Run]:
        def once() -> Run:
            order.append(name)
            return run(1.0, 1)

        return once

    runs = alternate({name: contestant(name) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabc"
    assert [len(each) for each in runs.values()] == [3, 3, 3]


def run(seconds: float, *tokens: int) -> Run:
    """Answers of so many tokens, each in ten passes and as many seconds as it has tokens."""
    return Run(seconds, tuple(BenchAnswer(tuple(range(count)), 10, count, count / 2) for count in tokens))


def test_figures_of_a_run_and_over_rounds() -> None:
    figures = run(2.0, 30, 10, 20).figures()
    assert figures == {
        "tokens_per_second": 30,
        "passes_per_second": 15,
        "tokens_per_pass": 2,
        "first_p50": 10,
        "first_p95": 15,
        "latency_p50": 20,
        "latency_p95": 30,
        "latency_p99": 30,
        "peak_bytes": None,
        "solved": None,
    }
    over = spreads([run(1.0, 10), run(2.0, 10), run(5.0, 10)])
    assert over["tokens_per_second"] == Spread(5, 2, 10)
    assert over["peak_bytes"] is None
    assert [percentile(range(1, 101), share) for share in (0, 0.5, 0.95, 0.99, 1)] == [1, 50, 95, 99, 100]
    assert percentile([], 0.5) is None


def test_a_ratio_is_taken_round_by_round_and_the_worst_round_counts_identical_answers() -> None:
    runs = [run(1.0, 4, 8, 9), run(1.0, 4, 7, 11), run(1.0, 5, 7, 9)]
    base = [run(1.0, 4, 3), run(2.0, 4, 7), run(1.0, 5, 2)]
    found = Comparison.of(runs, base)
    assert (found.identical, found.compared) == (1, 2)
    assert found.ratio == Spread(3.0, 3.0, 4.0)


def test_operations_are_those_that_torch_counts(tmp_path: Path) -> None:
    """For whole canvases of which every position is wanted, which no trimming of the last layer makes cheaper."""
    network, rows, length = toy(tmp_path).network, 3, 24
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        logits_of(network, torch.zeros(rows, length, dtype=torch.long))
    work = Work(steps=1, passes=rows, positions=rows * length, keys=length, wanted=rows * length)
    assert operations(network.architecture, work) == counter.get_total_flops()


def test_a_step_reads_every_matrix_once_and_more_with_every_position(tmp_path: Path) -> None:
    network = toy(tmp_path).network
    a, idle = network.architecture, Work(steps=1, passes=0, positions=0, keys=0, wanted=0)
    assert bytes_moved(a, idle, itemsize=2) == 2 * sum(matrix.numel() for matrix in matrices(network))
    assert bytes_moved(a, replace(idle, steps=3), itemsize=4) == 6 * bytes_moved(a, idle, itemsize=2)
    head = network.head.weight.numel()
    assert bytes_moved(a, idle, 2, quantised=True) == bytes_moved(a, idle, itemsize=1) + head  # which stays as it is
    busy = replace(idle, passes=2, positions=20, keys=10, wanted=4)
    kv = a.kv_heads * a.head_dim
    attended = replace(busy, keys=11)
    assert bytes_moved(a, attended, 2) - bytes_moved(a, busy, 2) == 2 * a.layers * 2 * 2 * kv
    for more in (replace(busy, positions=21), replace(busy, wanted=5)):
        assert bytes_moved(a, more, 2) > bytes_moved(a, busy, 2)
    done, moved = operations(a, busy), bytes_moved(a, busy, 2)
    assert reached(a, busy, 2, 4.0, Machine(done, moved)) == (0.25, 0.25)
    assert reached(replace(a, experts=Experts(8, 2, 16)), busy, 2, 4.0, Machine(done, moved)) is None


def matrices(network: MaskedTransformer) -> list[torch.Tensor]:
    """What a pass multiplies by: the embedding is looked up, and norms and biases are vectors."""
    distinct = {p.data_ptr(): p for name, p in network.named_parameters() if p.ndim == 2 and "embed" not in name}
    return [p for p in distinct.values() if not any(inside(p, other) for other in distinct.values())]


def inside(part: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether one is a view of some of the other."""
    same = part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    return same and part.numel() < whole.numel()


def test_a_profile_counts_what_the_network_had_to_do(tmp_path: Path) -> None:
    model = toy(tmp_path)
    requests = [Request(str(i), (5,) * (3 + i), 8, 4, parse_scheduler("topk")) for i in range(2)]
    profile = profile_offline(model, requests, 2)
    assert profile.work == Work(steps=8, passes=16, positions=8 * (11 + 12), keys=11.5, wanted=2 * 2 * (4 + 3 + 2 + 1))
    assert sum(profile.shares().values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in profile.shares().values())


def test_blocks_of_a_block_causal_model_are_counted_from_the_start_of_the_prompt(tmp_path: Path) -> None:
    model = load_model(str(synthetic_sdar(tmp_path, block_size=4)), device="cpu", dtype="float32")
    request = Request("0", (5, 6, 7), 8, 4, parse_scheduler("topk"))
    profile = profile_offline(model, [request], 1)
    assert profile.work.wanted == 1 + (4 + 3 + 2 + 1) + (3 + 2 + 1)  # the prompt ends in the first block


def test_peak_memory_is_that_since_the_reset() -> None:
    size = 1 << 28
    gc.collect()  # what earlier tests left would otherwise be freed in between
    reset_peak(CPU)
    before = peak_bytes(CPU)
    held = torch.ones(size, dtype=torch.uint8)
    assert peak_bytes(CPU) - before > size / 2
    del held
    reset_peak(CPU)
    assert peak_bytes(CPU) - before < size / 2


def test_the_command_shows_and_writes_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_DEFAULT_SCHEDULER", "nothing")  # which no server would start with
    out = tmp_path / "out.json"
    flags = (
        f"--scheduler threshold --concurrency 1,2 --requests 4 --rounds 2 --http --json {out} --reference-requests 2"
    )
    cli.main(["bench", *flags.split(), "--against", "reference", "--device", "cpu", "--dtype", "float32"])
    shown, found = capsys.readouterr().out, json.loads(out.read_text())
    names = ["reference", "threshold none 1", "threshold none 1 http", "threshold none 2", "threshold none 2 http"]
    assert [line["name"] for line in found["results"]] == names
    assert all(len(line["rounds"]) == 2 for line in found["results"])
    assert all(line["figures"]["solved"]["median"] == 1.0 for line in found["results"])
    assert [line["watched"] is not None for line in found["results"]] == [False, True, False, True, False]
    last = found["results"][-1]
    assert last["against"].keys() == {"reference", "first", "offline"}
    assert (last["against"]["reference"]["compared"], last["against"]["offline"]["compared"]) == (2, 4)
    assert last["against"]["offline"]["identical"] == 4
    http, offline = ([each["tokens_per_second"] for each in line["rounds"]] for line in found["results"][:-3:-1])
    ratios = [mine / other for mine, other in zip(http, offline, strict=True)]
    assert last["against"]["offline"]["ratio"]["least"] == pytest.approx(min(ratios))
    assert found["machine"]["operations_per_second"] > found["machine"]["bytes_per_second"] / 100 > 0
    assert all(name in shown for name in names)
    assert re.search(r"machine: CPU .* GFLOP/s in float32", shown)


def test_an_open_loop_by_processor_time_leaps_to_the_next_arrival_and_counts_waiting(nano: Model) -> None:
    requests = asked(nano, 6, "threshold")
    apart = open_loop(Engine(nano, max_rows=1), requests, [100.0 * i for i in range(6)])
    assert apart.seconds > 500 > max(apart.latencies)
    at_once = open_loop(Engine(nano, max_rows=1), requests, [0.0] * 6)
    assert list(at_once.latencies) == sorted(at_once.latencies)
    assert at_once.latencies[-1] == at_once.seconds < 100
    assert at_once.latencies[-1] > 2 * max(apart.latencies)
    assert [result.token_ids for result in at_once.results] == [result.token_ids for result in apart.results]


def test_in_an_open_loop_answers_of_other_tasks_are_graded_over_http_alone(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    flags = (
        f"--task sudoku --scheduler topk:n=48,threshold:speed=auto --http --rate 100 --concurrency 2 --requests 8 "
        f"--rounds 1 --json {out} --device cpu --dtype float32"
    )
    cli.main(["bench", *flags.split()])
    found = json.loads(out.read_text())["results"]
    assert [line["name"] for line in found] == ["topk:n=48 none 2 http", "threshold:speed=auto none 2 http"]
    solved = [line["figures"]["solved"]["median"] for line in found]
    assert solved[0] < solved[1] <= 1  # all at once is no way to solve a Sudoku


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--rate 3", "--rate is for runs over HTTP; add --http"),
        ("--url http://x", "--url is for runs over HTTP; add --http"),
        ("--http --rate 3 --concurrency 1,2", "give one --concurrency"),
        ("--task word-problems,chess", "--task: unknown task 'chess'; the tasks are: word-problems, "),
        ("--scheduler dus:speed=auto", "scheduler 'dus' has no option that the speed 'auto' could set"),
        ("--cache fridge", "cache 'fridge' is unknown; the caches are: none"),
        ("--cache block", "cache 'block' is not for this model"),
        ("--input-state hard", "unknown input state 'hard'"),
        ("--scheduler nothing", "unknown scheduler 'nothing'; the schedulers are: ada-block, "),
        ("--against me", "--against must be reference, not 'me'"),
        ("--concurrency 0", "--concurrency must be at least 1, not '0'"),
        ("--against reference --reference-requests 3", "choose a multiple of 2"),
        ("--against reference --requests 8 --max-tokens 8,16,32", "--reference-requests of 16 would give"),
        ("--against reference --requests 8", "16 are more than --requests of 8"),
    ],
)
def test_errors_name_the_flag_and_the_remedy(flags: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *flags.split()])
    assert message in f"{end.value.code} {capsys.readouterr().err}"
