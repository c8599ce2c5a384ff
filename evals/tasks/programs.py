"""What the code tasks share: finding the program in a completion, and running many of them."""

import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from unmask.evals import sandbox
from unmask.evals.tasks.base import Problem

FENCED = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
INSTRUCTION = "Answer with the whole Python function in one block of code."  # our words


def code_of(completion: str) -> str:
    """The first fenced block, even if it was cut off before its end; without one, the whole completion."""
    block = FENCED.search(completion)
    if not block:
        return completion
    return re.sub(f"^{block[1]}", "", block[2], flags=re.MULTILINE)  # a block in a list is indented as its fence is


@runtime_checkable
class Programmed(Protocol):
    """What a problem may be, too: one that is graded by running a program."""

    def program(self, completion: str) -> sandbox.Program:
        """What comes to its end in the sandbox if the completion is right."""
        ...


def grade_all(problems: Sequence[Problem], completions: Sequence[str]) -> list[bool]:
    """What `grade` says of each completion. Programs run together, many to a process, which is much quicker."""
    pairs = list(zip(problems, completions, strict=True))
    programs = {i: asked.program(text) for i, (asked, text) in enumerate(pairs) if isinstance(asked, Programmed)}
    passed = dict(zip(programs, sandbox.run_all(list(programs.values())), strict=True))
    return [passed[i] if i in passed else asked.grade(text) for i, (asked, text) in enumerate(pairs)]
