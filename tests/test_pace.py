"""Speed that follows the load: which values the dial of a scheduler has, pass by pass, and what answers say of it."""

import time
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.live import QUESTION
from tests.watched import Watched
from unmask import LLM
from unmask.engine import Engine, Request, Result
from unmask.engine.errors import RequestError
from unmask.engine.pace import Pace, bounds_of, choose_pace, hurry, pace_of, parse_paced, parse_speed
from unmask.evals.prompts import prompt_ids
from unmask.evals.tasks import TASKS, take
from unmask.models.loading import Model, load_model
from unmask.schedulers import option, parse_scheduler, scheduler_names
from unmask.schedulers.options import dial_of
from unmask.schedulers.registry import names_with_dial

CAREFUL = parse_scheduler("threshold")
ANY = (0.0, 1.0)
WITHOUT = {"dus", "remdm"}  # of the built-in schedulers: what they do next follows from what they did


@pytest.fixture(scope="module")
def nano() -> Model:
    return load_model("llada-nano", device="cpu", dtype="float32")


def asked(
    model: Model, count: int, name: str = "threshold", task: str = "word-problems", **fields: Any
) -> list[Request]:
    """Requests for problems that the model can solve; ids are r0, r1, ..."""
    problems = take(TASKS[task], count, seed=5)
    spec = parse_scheduler(name, fields.pop("options", {}))
    plain = [Request(f"r{i}", prompt_ids(model, problem), 64, 32, spec, seed=i) for i, problem in enumerate(problems)]
    return [replace(request, **fields) for request in plain]


def seen_by_row(watched: Watched, name: str = "threshold") -> list[list[float]]:
    """The values of an option, a list for each pass."""
    return [[round(value, 4) for value in columns[name].tolist()] for columns in watched.seen]


def test_a_share_lies_within_the_bounds_and_the_dial_between_its_ends() -> None:
    pace = Pace("threshold", 0.9, 0.5, whole=False, low=0.25, high=0.75)
    assert [pace.share(load, 0.0) for load in (0, 0.25, 0.5, 0.75, 1, 7)] == [0.25, 0.25, 0.5, 0.75, 0.75, 0.75]
    assert (pace.share(0.3, 0.6), pace.share(0.6, 0.3)) == (0.6, 0.6)
    assert [round(pace.value(share), 6) for share in (0, 0.5, 1)] == [0.9, 0.7, 0.5]
    assert pace.value(0.0) == 0.9
    assert [replace(pace, careful=1, fast=4, whole=True).value(share) for share in (0, 0.3, 0.6, 1)] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("left", "passed", "revealed", "masks", "expected"),
    [
        (10.0, 2.0, 10, 50, 0.0),  # they take 10 s
        (8.0, 2.0, 10, 50, 0.25),
        (5.0, 2.0, 10, 50, 1.0),
        (1.0, 2.0, 10, 50, 1.0),
        (0.0, 2.0, 10, 50, 1.0),
        (-1.0, 0.0, 0, 50, 1.0),
        (0.1, 0.0, 0, 50, 0.0),  # nothing is known yet
        (9.0, 2.0, -3, 50, 0.0),  # more was taken back than revealed
    ],
)
def test_a_deadline_hurries_as_far_as_the_speed_so_far_misses_it(
    left: float, passed: float, revealed: int, masks: int, expected: float
) -> None:
    assert hurry(left, passed, revealed, masks) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "bounds"),
    [(None, None), (0.5, None), (1, None), ("auto", ANY), ({"auto": [0, 1]}, ANY), ({"auto": (0.2, 0.2)}, (0.2, 0.2))],
)
def test_what_a_speed_leaves_to_the_load(given: object, bounds: object) -> None:
    assert bounds_of(given) == bounds


@pytest.mark.parametrize(
    "given",
    [
        *("fast", True, [0, 1], {}, {"auto": [0, 1], "low": 0}, {"auto": 1}, {"auto": "ab"}),
        *({"auto": pair} for pair in ([1, 0], [0, 1.1], [-0.1, 1], [0, 0.5, 1], [True, 1], [0, float("nan")])),
    ],
)
def test_other_speeds_are_refused(given: object) -> None:
    with pytest.raises(RequestError, match=r'speed must be a number, "auto", or \{"auto": \[low, high\]\} with 0 <= '):
        bounds_of(given)


def test_a_word_of_the_command_line() -> None:
    assert [parse_speed(text) for text in ("auto", "auto:low=0.2:high=0.8", "auto:high=0.5")] == [
        ANY,
        (0.2, 0.8),
        (0.0, 0.5),
    ]
    for text in ("fast", "auto:lo=1", "auto:low", "0.5"):
        with pytest.raises(RequestError, match="cannot be read; write auto, or for example auto:low=0"):
            parse_speed(text)
    with pytest.raises(RequestError, match="0 <= low <= high <= 1"):
        parse_speed("auto:low=0.9:high=0.1")
    assert parse_paced("threshold:threshold=0.8:speed=auto") == (
        parse_scheduler("threshold", {"threshold": 0.8}),
        Pace("threshold", 0.8, 0.5, whole=False),
    )
    assert parse_paced("policy:speed=0.3") == (parse_scheduler("policy", {"speed": 0.3}), None)


def test_which_schedulers_have_a_dial() -> None:
    assert set(scheduler_names()) - set(names_with_dial()) == WITHOUT
    with pytest.raises(
        RequestError, match=r"'dus' has no option that the speed 'auto' could set; .*: ada-block, .*wino"
    ):
        pace_of(parse_scheduler("dus"), ANY)


def test_who_asks_for_more_than_the_fast_end_keeps_it() -> None:
    assert pace_of(parse_scheduler("threshold", {"threshold": 0.3}), ANY).fast == 0.3
    assert pace_of(parse_scheduler("threshold", {"threshold": 0.99}), ANY).fast == 0.5
    assert pace_of(parse_scheduler("topk", {"n": 9}), ANY).fast == 9
    assert pace_of(parse_scheduler("policy", {"speed": 0.3}), ANY).fast == 0.8


def test_an_option_that_excludes_the_dial_is_named() -> None:
    spec = parse_scheduler("topk", {"steps": 16})
    with pytest.raises(
        RequestError, match=r"sets option 'n' of scheduler 'topk', and options 'n' .* exclude each other"
    ):
        choose_pace("auto", spec)
    assert choose_pace(None, spec, default=ANY) is None


def test_a_default_is_for_those_that_name_no_speed_and_can_follow() -> None:
    assert choose_pace(None, CAREFUL) is None
    assert choose_pace(None, CAREFUL, default=(0.1, 0.9)) == Pace("threshold", 0.9, 0.5, False, 0.1, 0.9)
    assert choose_pace({"auto": [0, 0.5]}, CAREFUL, default=(0.1, 0.9)) == Pace("threshold", 0.9, 0.5, False, 0.0, 0.5)
    assert choose_pace(0.5, parse_scheduler("policy"), default=ANY) is None
    assert choose_pace(None, parse_scheduler("dus"), default=ANY) is None


def test_one_option_is_the_dial_and_it_is_a_number() -> None:
    @dataclass(frozen=True)
    class Two:
        a: float = option(0.5, "a", fast=1.0)
        b: int = option(1, "b", fast=2)

    @dataclass(frozen=True)
    class Nullable:
        a: float | None = option(None, "a", fast=1.0)

    for wrong in (Two, Nullable):
        with pytest.raises(ValueError, match=f"{wrong.__name__}: one option, an int or a float"):
            dial_of(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", names_with_dial())
def test_the_fast_end_takes_fewer_passes(nano: Model, name: str) -> None:
    dial, options = parse_scheduler(name).dial, {"high": 50.0} if name == "sched" else {}  # else it has nothing to gain
    assert dial is not None
    count = 16 if name == "joint" else 4  # its gain is small
    careful, fast = (
        sum(result.forward_passes for result in Engine(nano).results(requests).values())
        for requests in (
            asked(nano, count, name, task="sudoku", options=given)
            for given in (options, {**options, dial.name: dial.fast})
        )
    )
    assert fast < careful


def test_idle_is_the_careful_setting_bit_for_bit(nano: Model) -> None:
    careful = asked(nano, 6)
    auto = [replace(request, pace=pace_of(request.scheduler, ANY)) for request in careful]
    told = [Engine(nano).results(requests) for requests in (careful, auto)]
    for request in careful:
        one, other = (results[request.id] for results in told)
        assert (one.reveals, one.text, one.forward_passes) == (other.reveals, other.text, other.forward_passes)
        assert (one.speed, other.speed) == (None, 0.0)


def watched_run(
    model: Model, pace: Pace | None, rows: int, count: int, **engine: Any
) -> tuple[Watched, list[int], dict[str, Result]]:
    """(what the scheduler saw, how many waited at each pass, the results) of requests that all come at once."""
    watched = Watched(CAREFUL.scheduler())
    spec = replace(CAREFUL, instance=watched)
    running, waiting, results = Engine(model, max_rows=rows, **engine), list[int](), dict[str, Result]()
    for request in asked(model, count):
        running.submit(replace(request, scheduler=spec, pace=pace))
    while running.running or running.waiting:
        steps = running.step()
        waiting.append(running.waiting)
        results |= {step.request_id: step.result for step in steps if step.result is not None}
    return watched, waiting, results


def test_the_more_wait_the_faster_all_rows_go(nano: Model) -> None:
    pace = pace_of(CAREFUL, ANY)
    watched, waiting, results = watched_run(nano, pace, rows=4, count=14)
    expected = [round(0.9 - 0.4 * min(1.0, count / 4), 4) for count in waiting]
    assert {0.5, 0.9} < set(expected)  # between them, too
    values = seen_by_row(watched)
    assert [set(row) for row in values] == [{value} for value in expected]
    assert [len(row) for row in values[:3]] == [4, 4, 4]  # one group, one call a pass
    assert results["r0"].speed == 1.0
    assert results["r13"].speed == 0.0
    passes = sum(result.forward_passes for result in watched_run(nano, None, rows=4, count=14)[2].values())
    assert sum(result.forward_passes for result in results.values()) < passes


def test_the_load_decides_within_the_bounds_only(nano: Model) -> None:
    watched, _, results = watched_run(nano, pace_of(CAREFUL, (0.25, 0.5)), rows=2, count=8)
    assert {value for row in seen_by_row(watched) for value in row} == {0.8, 0.7}
    assert (results["r0"].speed, results["r7"].speed) == (0.5, 0.25)


def test_with_passes_of_their_own_rows_follow_the_load_too(nano: Model) -> None:
    watched, waiting, _ = watched_run(nano, pace_of(CAREFUL, ANY), rows=2, count=6, batch_invariant=True)
    assert seen_by_row(watched) == [[round(0.9 - 0.4 * min(1.0, count / 2), 4)] for count in waiting]


def test_rows_that_do_not_ask_keep_their_options_beside_those_that_do(nano: Model) -> None:
    watched = Watched(CAREFUL.scheduler())
    spec = replace(CAREFUL, instance=watched)
    plain, paced, *rest = (replace(request, scheduler=spec) for request in asked(nano, 8))
    alone = Engine(nano).results([plain])[plain.id]
    watched.seen = []
    beside = Engine(nano, max_rows=2).results([plain, replace(paced, pace=pace_of(CAREFUL, ANY)), *rest])[plain.id]
    assert seen_by_row(watched)[0] == [0.9, 0.5]
    assert (beside.text, beside.forward_passes) == (alone.text, alone.forward_passes)


def test_an_integer_stays_one(nano: Model) -> None:
    spec = parse_scheduler("topk")
    watched = Watched(spec.scheduler())
    engine = Engine(nano, max_rows=2)
    for request in asked(nano, 3, "topk"):
        engine.submit(replace(request, scheduler=replace(spec, instance=watched), pace=pace_of(spec, ANY)))
    engine.step()  # one waits: half of the way from 1 to 4
    assert watched.seen[0]["n"].tolist() == [2, 2]
    assert not watched.seen[0]["n"].is_floating_point()


def test_a_deadline_makes_its_own_row_fast(nano: Model) -> None:
    now = time.monotonic()
    requests = [
        replace(request, pace=pace_of(CAREFUL, (0.0, high), deadline))
        for request, high, deadline in zip(
            asked(nano, 4), (1.0, 1.0, 0.5, 1.0), (now - 1, now + 1e6, now - 1, None), strict=True
        )
    ]
    results = Engine(nano).results(requests)
    assert [results[request.id].speed for request in requests] == [1.0, 0.0, 0.5, 0.0]


def test_a_deadline_that_the_speed_so_far_misses_hurries(nano: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass takes a second by this clock, and reveals one token of 64."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    spec = parse_scheduler("topk")
    (request,) = asked(nano, 1, "topk", ignore_eos=True)
    shares = []
    for deadline, fast in ((100.0 + 70, False), (100.0 + 40, True)):
        now[0] = 100.0
        engine = Engine(nano)
        engine.submit(replace(request, pace=pace_of(spec, ANY, deadline)))
        while engine.running or engine.waiting:
            now[0] += 1.0 if engine.running else 0.0
            (step,) = engine.step()
        assert step.result is not None
        assert step.result.speed is not None
        shares.append(step.result.speed)
        assert (step.result.forward_passes < 64) == fast
        assert now[0] <= deadline
    assert shares[0] == 0.0 < shares[1] < 1.0


def test_python_takes_the_same_and_tells_the_same() -> None:
    llm = LLM("llada-nano", device="cpu", dtype="float32", max_rows=1)
    messages = [{"role": "user", "content": QUESTION}]
    first, second = llm.chat([messages] * 2, scheduler="threshold", speed={"auto": [0, 0.5]}, progress=False)
    assert first.diffusion.speed is not None
    assert second.diffusion.speed is not None
    assert (first.diffusion.speed.mean, second.diffusion.speed.mean) == (0.5, 0.0)
    assert first.diffusion.speed.option == "threshold"
    with pytest.raises(RequestError, match="speed must be a number"):
        llm.chat([messages], speed="quick", progress=False)
    with pytest.raises(RequestError, match="'dus' has no option"):
        llm.chat([messages], scheduler="dus", speed="auto", progress=False)
