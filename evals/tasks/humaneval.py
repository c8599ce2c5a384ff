"""HumanEval: 164 functions to write from signature and docstring (Chen et al., arXiv 2107.03374). None to train on.

A row has `task_id`, `prompt` (imports, helpers, signature, docstring), `canonical_solution` (the body that follows),
`test` (which defines `check`) and `entry_point`. An answer is right when the tests pass: pass@1 with one answer.
"""

import re
from dataclasses import dataclass
from itertools import takewhile

from unmask.evals import sandbox
from unmask.evals.tasks.dataset import Dataset, Files
from unmask.evals.tasks.programs import INSTRUCTION, code_of
from unmask.evals.tasks.rows import Row, text_of


@dataclass(frozen=True)
class HumanEvalProblem:
    stub: str
    body: str
    test: str
    entry_point: str

    @property
    def prompt(self) -> str:
        return f"Complete this Python function. {INSTRUCTION}\n\n```python\n{self.stub.strip()}\n```"

    @property
    def solution(self) -> str:
        return self.stub + self.body

    def grade(self, completion: str) -> bool:
        """Right when the tests pass in the sandbox."""
        return sandbox.run(self.program(completion))

    def program(self, completion: str) -> sandbox.Program:
        """The answer, which is the function or the body that the stub lacks, and its tests."""
        code = code_of(completion)
        whole = re.search(rf"^(?:async )?def {re.escape(self.entry_point)}\b", code, re.MULTILINE)
        # The stub alone is a function that does nothing; what it imports and defines serves the answer's function too.
        answer = [self.stub, code] if whole else [self.stub + _body(code)]
        return [*answer, self.test, f"check({self.entry_point})"]


def _body(code: str) -> str:
    """The indented lines that code starts with; what follows unindented is no part of the function."""
    lines = code.strip("\n").split("\n")
    if not lines[0][:1].isspace():
        lines[0] = "    " + lines[0]  # white space in front of an answer is easily lost
    return "\n".join(takewhile(lambda line: not line or line[0].isspace(), lines))


def parse(row: Row) -> HumanEvalProblem:
    return HumanEvalProblem(*(text_of(row, field) for field in ("prompt", "canonical_solution", "test", "entry_point")))


DATASET = Dataset(
    "humaneval",
    "Python functions from signature and docstring, run against tests",
    max_tokens=256,  # as the policies of arXiv 2512.09106 are measured
    parse=parse,
    splits={
        "held-out": Files(
            "openai/openai_humaneval", ("openai_humaneval/test-*.parquet", "test.jsonl", "HumanEval.jsonl*")
        )
    },
)
