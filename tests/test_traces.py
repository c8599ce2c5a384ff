"""Traces: solutions are right, easy to write line by line, and of many lengths for one prompt."""

import random
import re
from collections import Counter
from collections.abc import Callable
from itertools import accumulate, islice, pairwise

import pytest
from tokenizers import Tokenizer

from tests.exact_denoiser import END, ExactDenoiser
from unmask.evals.recipe.blueprints import CLOCK, TRACE
from unmask.evals.recipe.data import Encoder
from unmask.evals.recipe.tokenizer import build_tokenizer
from unmask.evals.tasks import TASKS, TRACES, clock_turns, running_totals, treasure_hunt
from unmask.evals.tasks.long_word_problems import draw_story
from unmask.evals.tasks.traces import PHRASES, Trace

LINE = re.compile(rf"(?:{'|'.join(PHRASES)})(\d+): (.+)")
LONG = ("running-totals", "treasure-hunt", "coin-hunt", "clock-turns")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, Tokenizer]:
    return {blueprint.name: build_tokenizer(blueprint) for blueprint in (TRACE, CLOCK)}


@pytest.fixture
def tokenizer(task: str, tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    """That of the model which is taught the task."""
    return tokenizers[(CLOCK if task in CLOCK.tasks else TRACE).name]


def traces(task: str, count: int, template: str | None = None) -> list[Trace]:
    drawn = TASKS[task] if template is None else TASKS[task].of_template(template)  # type: ignore[attr-defined]
    found = list(islice(drawn.problems(0, "train"), count))
    assert all(isinstance(problem, Trace) for problem in found)
    return found


def read(problem: Trace) -> dict[int, str]:
    """What the solution says of each step that it writes."""
    *lines, last = problem.solution.split("\n")
    assert last == f"#### {problem.answer}"
    found = {}
    for line in lines:
        match = LINE.fullmatch(line)
        assert match is not None, line
        found[int(match[1])] = match[2]
    assert [*found] == sorted(found)
    return found


@pytest.mark.parametrize("task", LONG)
def test_solutions_come_in_styles_and_say_the_same_before_each_line(task: str) -> None:
    styles: Counter[str] = Counter()
    for problem in traces(task, 2000):
        steps = [*read(problem)]
        gaps = {after - before for before, after in pairwise([0, *steps])}
        assert not steps or steps[-1] in range(5, 9)
        assert len({after - before for before, after in pairwise([0, *steps[:-1]])}) <= 1
        assert len({re.split(r"\d", line)[0] for line in problem.solution.split("\n")[:-1]}) <= 1
        assert problem.grade(problem.solution)
        assert problem.grade(f"#### {problem.answer}")
        assert not problem.grade(problem.solution + " 1")
        assert not problem.grade(problem.solution.partition("####")[0])
        style = problem.style(problem.solution)
        assert style == ("bare" if not steps else "plain" if gaps == {1} else "merged")
        styles[style] += 1
    assert 1050 < styles["plain"] < 1250
    assert 40 < styles["bare"] < 120


def test_totals_are_right() -> None:
    for problem in traces("running-totals", 500, template="3"):
        start, *changes = re.findall(r"start (\d+)|: ([-+*]\d)", problem.prompt)
        totals = list(accumulate((change for _, change in changes), _change, initial=int(start[0])))
        assert all(0 <= total <= 30 for total in totals)
        assert all(says == str(totals[step]) for step, says in read(problem).items())
        assert problem.answer == str(totals[-1])


def _change(total: int, change: str) -> int:
    operand = int(change[1:])
    return {"+": total + operand, "-": total - operand, "*": total * operand}[change[0]]


@pytest.mark.parametrize("task", ["treasure-hunt", "coin-hunt", "short-hunt"])
def test_the_way_of_a_hunt_follows_the_notes(task: str) -> None:
    for problem in traces(task, 300, template="2"):
        notes = dict(re.findall(r"^(\w+) to (\w+)", problem.prompt, re.MULTILINE))
        coins = {place: int(count) for place, count in re.findall(r"^(\w+) to \w+ with (\d)", problem.prompt, re.M)}
        asked = re.search(r"after (\d) notes from the (\w+)\?", problem.prompt)
        assert asked is not None
        way = [asked[2]]
        for _ in range(int(asked[1])):
            way.append(notes[way[-1]])
        assert len({*way}) == len(way)
        says = [str(place) for place in way]
        if coins:
            says = [f"{place} {sum(map(coins.__getitem__, way[1 : i + 1]))}" for i, place in enumerate(way)]
        assert all(line == says[step] for step, line in read(problem).items())
        assert problem.answer == says[-1].split()[-1]


def test_a_clock_shows_what_its_turns_come_to() -> None:
    for problem in traces("clock-turns", 500, template="3"):
        first, *turns = map(int, re.findall(r"(?:start |: )([+-]?\d+)", problem.prompt))
        totals = list(accumulate(turns, initial=first))
        assert all(1 <= abs(turn) <= 9 for turn in turns)
        shows = [str(next(hour for hour in range(1, 13) if (hour - total) % 12 == 0)) for total in totals]
        assert all(says == shows[step] for step, says in read(problem).items())
        assert problem.answer == shows[-1]


@pytest.mark.parametrize("task", LONG)
def test_lines_of_one_solution_are_equally_long(tokenizer: Tokenizer, task: str) -> None:
    for problem in traces(task, 300):
        text, _, _ = problem.solution.partition("####")
        assert len({len(tokenizer.encode(line).ids) for line in text.splitlines(keepends=True)}) <= 1


@pytest.mark.parametrize("task", TRACES)
def test_answers_fit_their_region_and_rows_of_training(tokenizer: Tokenizer, task: str) -> None:
    """So the width of a row prefers no style."""
    encode = Encoder(tokenizer)
    for problem in traces(task, 1000):
        prompt, solution = encode(problem, True)
        assert len(solution) <= TASKS[task].max_tokens
        assert len(prompt) + len(solution) <= min((CLOCK if task in CLOCK.tasks else TRACE).widths)


def _totals(rng: random.Random) -> Callable[[], str]:
    told, _ = draw_story(rng, (5, 8), 30)
    return lambda: running_totals.solution(rng, told)


def _hunt(rng: random.Random) -> Callable[[], str]:
    hunt = treasure_hunt.draw_hunt(rng)
    return lambda: treasure_hunt.solution(rng, hunt)


def _coins(rng: random.Random) -> Callable[[], str]:
    hunt = treasure_hunt.draw_hunt(rng)
    return lambda: treasure_hunt.coin_solution(rng, hunt)


def _clock(rng: random.Random) -> Callable[[], str]:
    told = clock_turns.draw_turns(rng)
    return lambda: clock_turns.solution(rng, told)


SOLVE = {"running-totals": _totals, "treasure-hunt": _hunt, "coin-hunt": _coins, "clock-turns": _clock}


@pytest.mark.parametrize("task", LONG)
def test_a_prompt_does_not_tell_the_length_of_its_answer(tokenizer: Tokenizer, task: str) -> None:
    """A trace has one of three numbers of lines and one of four phrases, or it is the bare answer."""
    solve = SOLVE[task](random.Random(0))
    lengths = {len(tokenizer.encode(solve()).ids) for _ in range(800)}
    assert len(lengths) > 8
    assert min(lengths) == 2
    assert max(lengths) > 60


def lengths_written(tokenizer: Tokenizer, task: str, threshold: float, block: int) -> list[tuple[int, int]]:
    """(tokens written, fewest tokens with one step a line) of some prompts, by an exact denoiser."""
    rng, found = random.Random(3), []
    for _ in range(5):
        solve = SOLVE[task](rng)
        drawn = Counter(solve() for _ in range(2000))
        ids = [tokenizer.encode(text).ids for text in drawn]
        canvas = ExactDenoiser(ids, list(drawn.values()), 128).fill(threshold, block)
        plain = min(len(i) for i, text in zip(ids, drawn, strict=True) if re.match(r"\D*1:", text))
        found.append((int((canvas != END).sum()), plain))
    return found


@pytest.mark.parametrize("task", LONG)
def test_an_exact_denoiser_writes_step_by_step_in_blocks_and_bare_answers_in_one(
    tokenizer: Tokenizer, task: str
) -> None:
    """What docs/ground.md says of it: the order decides, however good the model is."""
    for threshold in (1.0, 0.9, 0.7):
        in_blocks, at_once = (lengths_written(tokenizer, task, threshold, block) for block in (32, 128))
        assert all(written >= plain for written, plain in in_blocks), threshold
        assert {written for written, _ in at_once} == {2}, threshold
