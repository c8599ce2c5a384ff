"""MBPP: short Python functions from one sentence and three tests (Austin et al., arXiv 2108.07732).

374 to train on, 500 held out, of the full set. Its rows have `text`, `code`, `test_list` and `test_setup_code`; those
of the sanitized set have `prompt` and `test_imports` instead. No worked examples are given; the paper gives three.
"""

from dataclasses import dataclass

from unmask.evals import sandbox
from unmask.evals.tasks.dataset import Dataset, Files
from unmask.evals.tasks.programs import INSTRUCTION, code_of
from unmask.evals.tasks.rows import Row, text_of, texts_of


@dataclass(frozen=True)
class MbppProblem:
    text: str
    solution: str
    tests: tuple[str, ...]
    setup: str

    @property
    def prompt(self) -> str:
        """As in the paper, section 3 (the tests tell the function's name), and our instruction."""
        tests = "\n".join(self.tests)
        return (
            f"You are an expert Python programmer, and here is your task: {self.text} "
            f"Your code should pass these tests:\n\n{tests}\n\n{INSTRUCTION}"
        )

    def grade(self, completion: str) -> bool:
        """Right when every test passes in the sandbox."""
        return sandbox.run(self.program(completion))

    def program(self, completion: str) -> sandbox.Program:
        return [self.setup, code_of(completion), *self.tests]


def parse(row: Row) -> MbppProblem:
    text = text_of(row, "text" if "text" in row else "prompt")
    setup = text_of(row, "test_setup_code") if "test_setup_code" in row else "\n".join(texts_of(row, "test_imports"))
    return MbppProblem(text, text_of(row, "code"), tuple(texts_of(row, "test_list")), setup)


DATASET = Dataset(
    "mbpp",
    "short Python functions from a sentence, run against tests",
    max_tokens=256,  # as the policies of arXiv 2512.09106 are measured
    parse=parse,
    splits={
        "train": Files("google-research-datasets/mbpp", ("full/train-*.parquet", "train.jsonl")),
        "held-out": Files("google-research-datasets/mbpp", ("full/test-*.parquet", "test.jsonl")),
    },
)
