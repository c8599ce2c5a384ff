"""The list tasks: what a prompt asks for is worked out a second time, from its text alone."""

import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest

from unmask.evals.tasks import TASKS, Task
from unmask.evals.tasks.list_chains import ListChain
from unmask.evals.tasks.list_items import WORDS
from unmask.evals.tasks.list_ops import KINDS, ListOperation


def some(task: Task, count: int = 200) -> list[Any]:
    return list(islice(task.problems(0, "held-out"), count))


STEP = re.compile(
    r"reverse|sort|swap first and last|rotate left|rotate right|drop first|drop last|replace \w+ by \w+|remove \w+"
    r"|append \w+|insert \w+ first|insert \w+ at position \d+",
    re.IGNORECASE,
)


def items_of(text: str) -> list[str]:
    found = re.search(r"\[(.*?)\]", text)
    assert found is not None
    return found[1].split(", ")


def ordered(items: list[str]) -> list[str]:
    return sorted(items, key=lambda item: item.zfill(2) if item.isdigit() else item)


WITHOUT_ITEM: dict[str, Callable[[list[str]], list[str]]] = {
    "reverse": lambda items: list(reversed(items)),
    "sort": ordered,
    "swap first and last": lambda items: items[-1:] + items[1:-1] + items[:1],
    "rotate left": lambda items: items[1:] + items[:1],
    "rotate right": lambda items: items[-1:] + items[:-1],
    "drop first": lambda items: items[1:],
    "drop last": lambda items: items[:-1],
}


def follow(step: str, before: list[str]) -> list[str]:
    if step in WITHOUT_ITEM:
        return WITHOUT_ITEM[step](before)
    items = list(before)
    match step.split(" "):
        case ["remove", item]:
            items.remove(item)
        case ["replace", old, "by", new]:
            items[items.index(old)] = new
        case ["append", item]:
            items.append(item)
        case ["insert", item, *where]:
            items.insert(0 if where == ["first"] else int(where[-1]) - 1, item)
    return items


def steps_of(intros: list[str]) -> list[str]:
    """The steps that introduce lines; of a line that is only numbered, none. Numbers are as they should be."""
    numbered = all(intro[0].isdigit() for intro in intros)
    texts = []
    for number, intro in enumerate(intros, 1):
        start = str(number) if numbered else ""
        assert intro.startswith(start)
        texts.append(intro.removeprefix(start).removeprefix(". "))
    return [step for text in texts if text for step in text.split(", ")]


def test_list_chains_are_worked_step_by_step() -> None:
    """Every list that is written is the one after some step, in order; a bare solution has none."""
    seen: Counter[str] = Counter()
    for problem in some(TASKS["list-chains"], 2000):
        assert isinstance(problem, ListChain)
        steps = [step.lower() for step in STEP.findall(problem.prompt)]
        assert 4 <= len(steps) <= 6
        lists = [items_of(problem.prompt)]
        for step in steps:
            seen[step if step in WITHOUT_ITEM else step.split(" ")[0]] += 1
            lists.append(follow(step, lists[-1]))
            assert 2 <= len(lists[-1]) <= 4
        *lines, answer = problem.solution.split("\n")
        assert answer == f"#### [{', '.join(lists[-1])}]"
        done = {0}  # how many steps the lists so far may stand for: some steps change nothing
        for written in (items_of(line) for line in lines if line.startswith("[")):
            done = {at + more for at in done for more in range(1, 7) if lists[at + more : at + more + 1] == [written]}
        assert not lines or len(steps) in done
        intros = [line[:-1] for line in lines if line.endswith(":")]
        assert not intros or lines[::2] == [f"{intro}:" for intro in intros]
        assert steps_of(intros) in ([], steps)
        wrong = [*lists[-1][1:], lists[-1][0]]
        assert not problem.grade(f"#### [{', '.join(wrong)}]")
        assert not problem.grade(f"#### [{', '.join(wrong)}]\n{answer}")
        assert not problem.grade(answer.removeprefix("####"))
        assert problem.grade(f"{answer}\nand more")
    assert len(seen) == 11
    assert min(seen.values()) > 100


def inserted(items: list[str], answer: list[str], new: str, place: str) -> bool:
    at = int(place) - 1
    return answer[at] == new and answer[:at] + answer[at + 1 :] == items


def replaced(items: list[str], answer: list[str], named: list[str]) -> bool:
    changed = [(old, new) for old, new in zip(items, answer, strict=True) if old != new]
    return len(changed) == 1 and set(changed[0]) == set(named)


# Whether an answer is right, by the list and by the items and numbers that the prompt names.
RIGHT: dict[str, Callable[[list[str], list[str], list[str]], bool]] = {
    "copy": lambda items, answer, named: answer == items,
    "reverse": lambda items, answer, named: answer[::-1] == items,
    "sort": lambda items, answer, named: answer == ordered(items),
    "insert": lambda items, answer, named: inserted(items, answer, *named),
    "remove": lambda items, answer, named: answer == [item for item in items if item not in named],
    "replace": replaced,
    "any": lambda items, answer, named: len(answer) == int(named[0]) and not Counter(answer) - Counter(items),
    "shuffle": lambda items, answer, named: ordered(answer) == ordered(items) and answer != items,
}


def named_in(problem: ListOperation) -> list[str]:
    """Items and numbers that stand in the prompt beside the list."""
    words = re.findall(r"\w+", re.sub(r"\[.*?\]", "", problem.prompt))
    return [word for word in words if word.isdigit() or word in WORDS]


@pytest.mark.parametrize("name", ["list-ops", "list-shuffle"])
def test_list_operations_are_answered_at_once(name: str) -> None:
    for problem in some(TASKS[name], 2000):
        assert isinstance(problem, ListOperation)
        answer = items_of(problem.solution)
        assert RIGHT[problem.kind](items_of(problem.prompt), answer, named_in(problem))
        assert problem.style(problem.solution) == problem.kind
        for wrong in (["yak", *answer[1:]], answer[1:], [*answer, answer[0]], [answer[1], *answer[1:]]):
            assert not problem.grade(f"[{', '.join(wrong)}]")
        assert not problem.grade(f"Here: {problem.solution}")
        assert problem.grade(problem.solution.replace(", ", ","))


def test_list_operations_have_several_right_answers_where_there_are() -> None:
    for problem in [*some(TASKS["list-ops"], 500), *some(TASKS["list-shuffle"])]:
        items = list(problem.items)
        other = [*items[1:], items[0]]
        assert problem.grade(f"[{', '.join(other)}]") == (
            problem.kind == "shuffle" or other == items_of(problem.solution)
        )
        assert problem.grade(f"[{', '.join(items)}]") == (problem.kind == "copy" or items == items_of(problem.solution))
        if problem.kind == "any":
            assert problem.grade(f"[{', '.join(items[: problem.count])}]")
            assert problem.grade(f"[{', '.join(items[-problem.count :])}]")
            assert not problem.grade(f"[{', '.join(items[: problem.count - 1])}, {items[0]}]")
    assert {problem.kind for problem in some(TASKS["list-ops"])} == set(KINDS)
