"""Running totals: solutions are right, equally spaced, and of many lengths for one prompt."""

import random
import re
from collections import Counter
from itertools import islice, pairwise

import pytest
from tokenizers import Tokenizer

from tests.exact_denoiser import END, ExactDenoiser
from unmask.evals.recipe.blueprints import TOTALS
from unmask.evals.recipe.tokenizer import build_tokenizer
from unmask.evals.tasks import TASKS
from unmask.evals.tasks.long_word_problems import LongWordProblem, draw_story
from unmask.evals.tasks.running_totals import PHRASES, solution

LINE = re.compile(r"\d+(?: [-+*] \d)+ = \d+")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TOTALS)


def test_solutions_are_right_and_say_the_same_before_each_line() -> None:
    """A line goes on from the one before it, and does one step, two, or all of them."""
    styles: Counter[str] = Counter()
    for problem in islice(TASKS["running-totals"].problems(0, "train"), 2000):
        assert isinstance(problem, LongWordProblem)
        *lines, answer = problem.solution.split("\n")
        worked = [line for line in lines if LINE.fullmatch(line)]
        said = [line for line in lines if not LINE.fullmatch(line)]
        assert len({*said}) <= 1
        assert {f"{line}\n" for line in said} <= set(PHRASES)
        assert len(said) in (0, len(worked))
        total = re.match(r"\D*(\d+)", problem.prompt)
        assert total is not None
        reached = int(total[1])
        for line in worked:
            left, result = line.split(" = ")
            start, *steps = re.findall(r"^\d+|[-+*] \d", left)
            assert int(start) == reached
            for sign, operand in (step.split(" ") for step in steps):
                reached = {"+": reached + int(operand), "-": reached - int(operand), "*": reached * int(operand)}[sign]
                assert 0 <= reached <= 30
            assert int(result) == reached
        assert not worked or answer == f"#### {reached}"
        assert problem.grade(problem.solution)
        assert not problem.grade(problem.solution + "1")
        counts = [len(re.findall(r"[-+*]", line)) for line in worked]
        assert sum(counts) in (0, 5, 6, 7, 8)
        assert len(counts) < 2 or set(counts[:-1]) in ({1}, {2})
        styles[problem.style(problem.solution)] += 1
    assert 850 < styles["plain"] < 1050
    assert 50 < styles["bare"] < 150


def test_the_first_line_tells_where_all_others_stand(tokenizer: Tokenizer) -> None:
    """Lines of one solution have the same number of tokens, whatever the numbers; a last line may do less."""
    for problem in islice(TASKS["running-totals"].problems(1, "train"), 1000):
        assert isinstance(problem, LongWordProblem)
        text, _, _ = problem.solution.partition("####")
        spans = re.findall(r"(?:[a-z ]+\n)?\d.*\n", text)
        assert "".join(spans) == text
        lengths = [len(tokenizer.encode(span).ids) for span in spans]
        assert len({*lengths[:-1]}) <= 1
        assert all(after <= before for before, after in pairwise(lengths))


def test_a_prompt_does_not_tell_the_length_of_its_answer(tokenizer: Tokenizer) -> None:
    """One story has an answer of twelve lengths: eleven for twelve ways to write lines, and the bare one."""
    told, total = draw_story(random.Random(0), (8, 8), 30)
    rng = random.Random(1)
    lengths = {len(tokenizer.encode(solution(rng, told, total)).ids) for _ in range(500)}
    assert len(lengths) == 12
    assert min(lengths) == 2
    assert 90 < max(lengths) < 128


def lengths_written(tokenizer: Tokenizer, threshold: float, block: int) -> list[tuple[int, int]]:
    """(tokens written, fewest tokens with one step a line) of some prompts, by an exact denoiser."""
    rng, found = random.Random(3), []
    for _ in range(6):
        told, total = draw_story(rng, (5, 8), 30)
        drawn = Counter(solution(rng, told, total) for _ in range(4000))
        ids = [tokenizer.encode(text).ids for text in drawn]
        canvas = ExactDenoiser(ids, list(drawn.values()), 128).fill(threshold, block)
        plain = len(tokenizer.encode(next(text for text in drawn if one_a_line(text))).ids)
        found.append((int((canvas != END).sum()), plain))
    return found


def one_a_line(text: str) -> bool:
    """Whether it has one step a line, and nothing else in between."""
    *lines, _ = text.split("\n")
    return bool(lines) and all(re.fullmatch(r"\d+ [-+*] \d = \d+", line) for line in lines)


def test_an_exact_denoiser_writes_step_by_step_in_blocks_and_answers_at_once_in_one(tokenizer: Tokenizer) -> None:
    """What docs/ground.md says of it: the order decides, however good the model is."""
    for threshold in (1.0, 0.9, 0.7):
        in_blocks, at_once = (lengths_written(tokenizer, threshold, block) for block in (32, 128))
        assert all(written >= plain for written, plain in in_blocks), threshold
        assert all(written < plain for written, plain in at_once), threshold
