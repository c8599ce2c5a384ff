r"""MATH: competition problems (Hendrycks et al., arXiv 2103.03874). 7,500 to train on, 500 held out.

Held out is MATH-500 (Lightman et al., arXiv 2305.20050), a part of MATH's test split; its rows have `problem`,
`solution`, `answer`, `subject`, `level`, `unique_id`. Rows of MATH itself have no `answer`: it is what the solution
boxes last.

Answers are compared as strings after `normalise`, and as numbers where both are plain ones. Nothing is computed:
\sqrt{8} is not 2\sqrt{2}, x+1 is not 1+x. That errs on the side of wrong, as Hendrycks et al. do.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from unmask.evals.tasks.dataset import Dataset, Files
from unmask.evals.tasks.rows import Row, text_of

# Models box their answers when told to; the words are Qwen2.5-Math's (arXiv 2409.12122), in wide use since.
INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."

# In this order, a pattern and what takes its place.
REWRITES = [
    (re.compile(pattern, re.ASCII), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\\s|\s|~", ""),
        (r"\\(?:left|right|q?quad)(?![a-z])|\\[,;:!]|\\?\$|\\[()\[\]]", ""),  # how it is set, not what it says
        (r"\\[dtc]frac", r"\\frac"),
        (r"\^\\circ|\^\{\\circ\}|\\degree|\\?%", ""),
        (r"(?<=[\d})])\\(?:text|mbox|mathrm)\{[^{}]*\}(?:\^\{?\d\}?)?$", ""),  # a unit behind an amount
        (r"\\(?:text|mbox|mathrm|textbf|mathbf)\{([^{}]*)\}", r"\1"),
        (r"^[a-zA-Z]=", ""),  # x=5
        (r"\{,\}", ","),
        (r"\.$", ""),
        (r"(?<=\d)\.0+(?!\d)", ""),  # 2.0
        (r"(\.\d*[1-9])0+(?!\d)", r"\1"),  # 2.50
        (r"(?<!\d)\.(?=\d)", "0."),  # .5
        (r"\\frac(\w|\{\w+\})(\w)", r"\\frac\1{\2}"),  # \frac12, \frac{1}2
        (r"\\frac(\w)", r"\\frac{\1}"),
        (r"\\sqrt(\w)", r"\\sqrt{\1}"),
    )
]
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)
DECIMAL = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
FRACTION = re.compile(r"(-?)(?:\\frac\{(-?\d+)\}\{(\d+)\}|(\d+)/(\d+))", re.ASCII)


@dataclass(frozen=True)
class MathProblem:
    question: str
    solution: str
    answer: str

    @property
    def prompt(self) -> str:
        return f"{self.question}\n\n{INSTRUCTION}"

    def grade(self, completion: str) -> bool:
        """Right when what the completion boxes last is the answer."""
        found = last_boxed(completion)
        return found is not None and equal(found, self.answer)


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{...} or \fbox{...} holds; None without one, or if its braces never close.

    A few solutions of MATH leave the braces out, `$\boxed 2$`: there it is what stands before the next dollar sign.
    """
    rest = re.split(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*", text)[1:]
    if not rest:
        return None
    if not rest[-1].startswith("{"):
        return rest[-1].partition("$")[0].strip()
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", rest[-1], re.DOTALL):  # an escaped brace, \{, is a character
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return rest[-1][1 : brace.start()]
    return None


def equal(left: str, right: str) -> bool:
    """Whether two answers are the same string once normalised, or the same plain number."""
    left, right = normalise(left), normalise(right)
    return left == right or (_number(left) is not None and _number(left) == _number(right))


def normalise(answer: str) -> str:
    for pattern, replacement in REWRITES:
        answer = pattern.sub(replacement, answer)
    return answer


def _number(text: str) -> Fraction | None:
    r"""The value of 12, 1,200, 0.5, 1/2 and \frac{1}{2}; None for all else."""
    if THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if DECIMAL.fullmatch(text):
        return Fraction(text)
    found = FRACTION.fullmatch(text)
    if not found:
        return None
    sign, above, below = found[1], int(found[2] or found[4]), int(found[3] or found[5])
    return None if below == 0 else Fraction(-above if sign else above, below)


def parse(row: Row) -> MathProblem:
    """Raises KeyError for a row with neither `answer` nor a box in its solution."""
    problem, solution = text_of(row, "problem"), text_of(row, "solution")
    answer = text_of(row, "answer") if "answer" in row else last_boxed(solution)
    if answer is None:
        raise KeyError("answer")
    return MathProblem(problem, solution, answer)


DATASET = Dataset(
    "math",
    "competition problems; held out is MATH-500",
    max_tokens=256,  # as the policies of arXiv 2512.09106 are measured
    parse=parse,
    splits={
        "train": Files("EleutherAI/hendrycks_math", ("*/train-*.parquet", "train.jsonl")),
        "held-out": Files("HuggingFaceH4/MATH-500", ("test.jsonl",)),
    },
)
