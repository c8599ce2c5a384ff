"""Word problems: a running total changed in two to five steps, solved by one line of arithmetic a step.

    Tom has 5 apples. Tom finds 7 more. Tom loses 3. How many apples does Tom have?

    5 + 7 = 12
    12 - 3 = 9
    #### 9

The last line holds the marked answer, as in GSM8K (Cobbe et al., arXiv 2110.14168), and it alone is graded.
Each line needs the line before it, so an unmasking order that runs ahead of the arithmetic has to guess.
"""

import random
import re
from dataclasses import dataclass

from unmask.evals.tasks.base import DrawnTask

NAMES = ("Tom", "Ann", "Sam", "Mia", "Ben", "Eva", "Leo", "Zoe")
ITEMS = ("apples", "books", "coins", "cards", "shells", "stamps", "marbles", "pears")
GAINS = ("finds {} more", "buys {} more", "gets {} more", "wins {} more")
LOSSES = ("loses {}", "sells {}", "gives away {}", "drops {}")
TIMES = {2: "doubles the {}", 3: "triples the {}"}
STEPS = (2, 5)
LARGEST_OPERAND = 9
LARGEST_TOTAL = 20

_ANSWER = re.compile(r"####\s*(-?\d+)")


def marked_answer(completion: str) -> int | None:
    """The first answer marked `#### n`; None if there is none."""
    found = _ANSWER.search(completion)
    return None if found is None else int(found[1])


@dataclass(frozen=True)
class WordProblem:
    prompt: str
    solution: str
    answer: int

    def grade(self, completion: str) -> bool:
        """Right when the first marked answer, `#### n`, is the answer."""
        return marked_answer(completion) == self.answer


def draw(rng: random.Random) -> WordProblem:
    name, item = rng.choice(NAMES), rng.choice(ITEMS)
    total = rng.randint(1, LARGEST_OPERAND)
    sentences = [f"{name} has {total} {item}."]
    lines = []
    for _ in range(rng.randint(*STEPS)):
        symbol, operand, event = _step(rng, total, item)
        result = {"+": total + operand, "-": total - operand, "*": total * operand}[symbol]
        sentences.append(f"{name} {event}.")
        lines.append(f"{total} {symbol} {operand} = {result}")
        total = result
    sentences.append(f"How many {item} does {name} have?")
    return WordProblem(" ".join(sentences), "\n".join([*lines, f"#### {total}"]), total)


def _step(rng: random.Random, total: int, item: str) -> tuple[str, int, str]:
    """One change of the total that keeps it within 0 and LARGEST_TOTAL: operator, operand, sentence."""
    kinds = ["+"] * 2 * (total < LARGEST_TOTAL) + ["-"] * 2 * (total > 0)
    factors = [factor for factor in TIMES if 0 < total * factor <= LARGEST_TOTAL]
    kind = rng.choice(kinds + ["*"] * bool(factors))
    if kind == "*":
        factor = rng.choice(factors)
        return kind, factor, TIMES[factor].format(item)
    room = LARGEST_TOTAL - total if kind == "+" else total
    operand = rng.randint(1, min(LARGEST_OPERAND, room))
    return kind, operand, rng.choice(GAINS if kind == "+" else LOSSES).format(operand)


TASK = DrawnTask("word-problems", "multi-step word problems with worked arithmetic", max_tokens=64, draw=draw)
