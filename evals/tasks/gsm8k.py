"""GSM8K: grade-school word problems (Cobbe et al., arXiv 2110.14168). 7,473 to train on, 1,319 held out.

A row has `question` and `answer`; the answer ends in a line `#### n`. The question is asked as it is, without worked
examples, so figures compare with zero-shot ones only.
"""

import re
import reprlib
from dataclasses import dataclass
from decimal import Decimal

from unmask.evals.tasks.base import TaskError
from unmask.evals.tasks.dataset import Dataset, Files
from unmask.evals.tasks.rows import Row, text_of

# A minus counts where it is no operator (7-2), a comma where it parts thousands; a full stop behind is none of it.
_NUMBER = r"(?:(?<![\w)])-)?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(_NUMBER, re.ASCII)
MARKED = re.compile(rf"####\s*({_NUMBER})", re.ASCII)


@dataclass(frozen=True)
class Gsm8kProblem:
    prompt: str
    solution: str

    def grade(self, completion: str) -> bool:
        """Right when the final number equals the solution's: 18, 18.00 and $18 are equal."""
        found = final_number(completion)
        return found is not None and found == final_number(self.solution)


def final_number(text: str) -> Decimal | None:
    """The number behind the first `####`; without one, the last number of the text; without any, None."""
    marked = MARKED.search(text)
    found = [marked[1]] if marked else NUMBER.findall(text)
    return Decimal(re.sub("[$,]", "", found[-1])) if found else None


def parse(row: Row) -> Gsm8kProblem:
    """Raises TaskError for an answer without a number to grade by."""
    question, answer = text_of(row, "question"), text_of(row, "answer")
    if not MARKED.search(answer):
        raise TaskError(f"field 'answer' is {reprlib.repr(answer)}; it must end in a line #### and a number")
    return Gsm8kProblem(question, answer)


DATASET = Dataset(
    "gsm8k",
    "grade-school word problems",
    max_tokens=256,  # as LLaDA and the policies of arXiv 2512.09106 are measured
    parse=parse,
    splits={
        "train": Files("openai/gsm8k", ("main/train-*.parquet", "train.jsonl")),
        "held-out": Files("openai/gsm8k", ("main/test-*.parquet", "test.jsonl")),
    },
)
