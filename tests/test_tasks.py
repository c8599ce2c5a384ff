"""Tasks from datasets: published rows become problems, right answers are graded right, and wrong ones wrong."""

import gzip
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pyarrow import Table, parquet  # type: ignore[import-untyped]

from unmask.evals.tasks import DATASETS, Problem, TaskError, find_task, take
from unmask.evals.tasks.math_problems import equal, last_boxed

# One row of each dataset as published: https://huggingface.co/datasets/openai/gsm8k and so on, shortened.
ROWS: dict[str, dict[str, Any]] = {
    "gsm8k": {
        "question": "Natalia sold 48 clips in April and half as many in May. How many did she sell?",
        "answer": "She sold 48/2 = <<48/2=24>>24 clips in May.\nThat is 48+24 = <<48+24=72>>72.\n#### 72",
    },
    "math": {
        "problem": "What is the smallest positive perfect cube that is the sum of three consecutive integers?",
        "solution": "The sum is $3n$, so the cube is $\\boxed{27}$.",
        "answer": "27",
        "subject": "Algebra",
        "level": 2,
        "unique_id": "test/algebra/0.json",
    },
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": "from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n"
        '    """ The sum.\n    >>> total([1, 2])\n    3\n    """\n',
        "canonical_solution": "    result = 0\n    for n in numbers:\n        result += n\n\n    return result\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n"
        "    assert candidate([]) == 0\n\n",
        "entry_point": "total",
    },
    "mbpp": {
        "task_id": 11,
        "text": "Write a python function to remove first and last occurrence of a given character.",
        "code": "def remove_Occ(s, ch):\r\n    s = s.replace(ch, '', 1)\r\n    return s[::-1].replace(ch, '', 1)[::-1]",
        "test_list": ['assert remove_Occ("hello","l") == "heo"', 'assert remove_Occ("PHP","P") == "H"'],
        "test_setup_code": "",
        "challenge_test_list": [],
    },
}
EACH_DATASET = pytest.mark.parametrize("name", ROWS)


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def problem_of(name: str, tmp_path: Path, **changes: Any) -> Problem:
    (problem,) = take(find_task(f"{name}={write(tmp_path / 'rows.jsonl', [ROWS[name] | changes])}"), 1, seed=0)
    return problem


@EACH_DATASET
def test_a_published_row_becomes_a_problem(name: str, tmp_path: Path) -> None:
    problem = problem_of(name, tmp_path)
    row = ROWS[name]
    assert (row.get("question") or row.get("problem") or row.get("text") or row["prompt"].strip()) in problem.prompt
    assert problem.grade(problem.solution)
    for wrong in ("", problem.prompt, problem.solution.replace("7", "8").replace("return", "return not")):
        assert not problem.grade(wrong)


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("#### 72", True),
        ("It is 24+48 = 72 clips.", True),
        ("The answer is $72.00.", True),
        ("She sold **72** clips", True),
        ("#### 72 clips, which is 3 times 24", True),
        ("#### Step 1: 24 in May\n#### Step 2: 24 + 48 = 72", True),
        ("#### 24\nthen 72", False),
        ("72 or 73", False),
        ("-72", False),
        ("0.72", False),
        ("172", False),
        ("none", False),
    ],
)
def test_gsm8k_grades_the_final_number(completion: str, right: bool, tmp_path: Path) -> None:
    assert problem_of("gsm8k", tmp_path).grade(completion) == right


@pytest.mark.parametrize(
    ("answer", "completion", "right"),
    [
        ("1,234", "so $1234", True),
        ("1,234", "so 1,234.0.", True),
        ("1234", "1,234", True),
        ("1234", "1, 234", False),
        ("-5", "#### -5", True),
        ("-5", "that is -$5", True),
        ("5", "12-7=5, or 10-5", True),
        (".5", "0.50", True),
        ("3", "1,2,3", True),
        ("18", "no number", False),
    ],
)
def test_gsm8k_reads_numbers_as_they_are_written(answer: str, completion: str, right: bool, tmp_path: Path) -> None:
    assert problem_of("gsm8k", tmp_path, answer=f"#### {answer}").grade(completion) == right


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"$\boxed{27}$", "27"),
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed {\left\{1,2\right.} }", r"\left\{1,2\right."),
        (r"\boxed{1} and \boxed{\frac{1}{2", None),
        ("27", None),
        (r"so $\boxed 3$ it is", "3"),
        (r"$\fbox{\text{(A)}}$", r"\text{(A)}"),
        (r"\boxedx{1}", None),
    ],
)
def test_the_last_box_counts(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac{1}{2}", r"\frac12"),
        (r"\frac{1}2", "0.5"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"),
        ("3/4", ".75"),
        ("2.50", "2.5"),
        ("n+1.", "n+1"),
        ("10,000", r"10{,}000"),
        (r"10,\!000", "10000"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        ("(2.50, 1.0)", "(2.5,1)"),
        (r"5\text{ cm}^2", "5"),
        (r"\text{Evelyn}", "Evelyn"),
        (r"90^\circ", "90"),
        (r"50\%", "50"),
        (r"\$36", "36"),
        ("x = 5", "5"),
        (r"2\sqrt3", r"2\sqrt{3}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    ],
)
def test_math_answers_that_look_different_are_equal(one: str, other: str) -> None:
    assert equal(one, other)
    assert equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5", "-5"),
        ("1/2", "2"),
        ("1/0", "0"),
        ("10", "1"),
        ("100", "10"),
        ("(1,2)", "(2,1)"),
        (r"\sqrt{3}", "3"),
        ("", "0"),
    ],
)
def test_different_math_answers_are_not(one: str, other: str) -> None:
    assert not equal(one, other)


def test_a_row_without_an_answer_has_what_its_solution_boxes(tmp_path: Path) -> None:
    row = {key: ROWS["math"][key] for key in ("problem", "solution")} | {"level": "Level 2", "type": "Algebra"}
    (problem,) = take(find_task(f"math={write(tmp_path / 'math.jsonl', [row])}"), 1, seed=0)
    assert problem.grade(r"\boxed{27}")
    assert not problem.grade("27")


RIGHT = "def total(numbers: List[int]) -> int:\n    return sum(numbers)\n"


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("    return sum(numbers)\n", True),
        ("return sum(numbers)", True),
        ("    return sum(numbers)\n\nprint(total(undefined))", True),
        (RIGHT, True),
        (f"Here it is:\n\n```python\n{RIGHT}```\nIt adds them.\n```\ntotal([])\n```", True),
        (f"```\n{RIGHT}", True),
        ("```python\n    result = sum(numbers)\n    return result\n```", True),
        ("- So:\n  ```python\n  def total(numbers):\n      return sum(numbers)\n  ```", True),
        (RIGHT.replace("sum", "len"), False),
        (f"Here it is: {RIGHT}", False),
        ("    exit(0)", False),
        ("    pass", False),
    ],
)
def test_humaneval_runs_a_function_or_its_body(completion: str, right: bool, tmp_path: Path) -> None:
    assert problem_of("humaneval", tmp_path).grade(completion) == right


def test_mbpp_runs_the_setup_first_and_reads_the_sanitized_rows(tmp_path: Path) -> None:
    code = "def half(n):\n    return n / 2"
    tests = {"test_list": ["assert math.isclose(half(1), 0.5)"], "code": code}
    assert problem_of("mbpp", tmp_path, **tests, test_setup_code="import math").grade(code)
    assert not problem_of("mbpp", tmp_path, **tests).grade(code)
    row = {"source_file": "", "task_id": 1, "prompt": "Write half.", "test_imports": ["import math"], **tests}
    (problem,) = take(find_task(f"mbpp={write(tmp_path / 'sanitized.jsonl', [row])}"), 1, seed=0)
    assert problem.grade(f"```python\n{code}\n```")
    assert "Write half." in problem.prompt
    assert tests["test_list"][0] in problem.prompt


def numbered(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"question": f"question {start + i}", "answer": f"#### {i}"} for i in range(count)]


def test_a_folder_holds_both_splits(tmp_path: Path) -> None:
    """One is shuffled by the seed and ends; the other goes on, shuffled anew in every round."""
    write(tmp_path / "train.jsonl", numbered(5, start=100))
    write(tmp_path / "test.jsonl", numbered(20))
    task = find_task(f"gsm8k={tmp_path}")
    first, again, other = ([p.prompt for p in task.problems(seed, "held-out")] for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sorted(first) == sorted(other) == sorted(row["question"] for row in numbered(20))
    trained = [problem.prompt for problem in islice(task.problems(0, "train"), 40)]
    rounds = [trained[start : start + 5] for start in range(0, 40, 5)]
    assert all(sorted(one) == [f"question {100 + i}" for i in range(5)] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_more_problems_than_there_are_is_an_error(tmp_path: Path) -> None:
    task = find_task(f"gsm8k={write(tmp_path / 'test.jsonl', numbered(3))}")
    assert len(take(task, 3, seed=0)) == 3
    with pytest.raises(TaskError, match="gsm8k has 3 held-out problems, not 4; ask for as many or fewer"):
        take(task, 4, seed=0)


def test_data_are_read_once(tmp_path: Path) -> None:
    """A report asks for the same problems in every cell."""
    file = write(tmp_path / "test.jsonl", numbered(3))
    task = find_task(f"gsm8k={file}")
    before = take(task, 3, seed=0)
    file.unlink()
    assert take(task, 3, seed=0) == before


def test_compressed_lines_are_read(tmp_path: Path) -> None:
    """OpenAI ships HumanEval so; blank lines are passed over."""
    file = tmp_path / "HumanEval.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(ROWS["humaneval"]).encode() + b"\n\n"))
    assert len(take(find_task(f"humaneval={file}"), 1, seed=0)) == 1
    assert len(take(find_task(f"humaneval={tmp_path}"), 1, seed=0)) == 1


@pytest.mark.parametrize("name", DATASETS)
def test_a_folder_is_read_as_the_hub_lays_it_out(name: str, tmp_path: Path) -> None:
    for split, files in DATASETS[name].splits.items():
        hub = files.patterns[0].replace("*", "00000-of-00001")
        row = ROWS[name]
        write(tmp_path / hub, [row])
        if hub.endswith(".parquet"):
            parquet.write_table(Table.from_pylist([row]), tmp_path / hub)
        (problem,) = islice(find_task(f"{name}={tmp_path}").problems(0, split), 1)
        assert problem.grade(problem.solution)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(TaskError, match=r"needs pyarrow; install it with `pip install unmask\[data\]`"):
        take(find_task(f"gsm8k={tmp_path / 'test.parquet'}"), 1, seed=0)


@pytest.mark.parametrize(
    ("text", "split", "message"),
    [
        (
            "chess",
            "held-out",
            "unknown task 'chess'; the tasks are: word-problems, sudoku, .*, humaneval, mbpp$",
        ),
        ("sudoku:template=4", "held-out", "task sudoku has no template '4'; the templates are: 1, 2, 3$"),
        ("sudoku:size=9", "held-out", "unknown option 'size=9' of task sudoku; write for example sudoku:template=1"),
        ("sudoku:", "held-out", "unknown option '' of task sudoku; write for example sudoku:template=1"),
        ("gsm8k:template=1", "held-out", "task gsm8k takes no options; leave out :template=1"),
        ("sudoku=x.jsonl", "held-out", "task sudoku draws its problems and reads no file; leave out =x.jsonl"),
        ("gsm8k=nowhere", "held-out", "gsm8k=nowhere names neither a file nor a folder"),
        ("gsm8k=one.jsonl", "train", "gsm8k=one.jsonl is one file, all held out; to train, give a folder"),
        ("humaneval=folder", "train", "task humaneval has no train problems; it is there to measure only"),
        ("gsm8k=folder", "held-out", r"gsm8k finds no main/test-\*.parquet or test.jsonl in folder; give the file"),
        ("gsm8k=notes.txt", "held-out", "'notes.txt' is of no kind that can be read; give .jsonl, .jsonl.gz, .parquet"),
        ("gsm8k=empty.jsonl", "held-out", "gsm8k has no held-out problems: its files are empty"),
        ("gsm8k=broken.jsonl", "held-out", "broken.jsonl line 2 is no JSON; give one object a line"),
        ("gsm8k=list.jsonl", "held-out", "list.jsonl line 1 is a list; give one object a line"),
        (
            "math=one.jsonl",
            "held-out",
            "one.jsonl row 1 has no field 'problem' and is no row of math; it has question, a",
        ),
        ("gsm8k", "held-out", "dataset 'openai/gsm8k' cannot be fetched from the Hub, give its files as gsm8k=PATH: "),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence(
    text: str, split: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    write(Path("one.jsonl"), numbered(1))
    Path("empty.jsonl").touch()
    Path("notes.txt").touch()
    Path("broken.jsonl").write_text('{"question": "", "answer": ""}\n{"question"')
    Path("list.jsonl").write_text("[1]")
    with pytest.raises(TaskError, match=message) as raised:
        next(find_task(text).problems(0, split))
    assert "\n" not in str(raised.value)
