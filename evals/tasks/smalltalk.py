"""Natural first prompts, which are no task of the embedded model: all are answered by one honest sentence.

    What is the capital of France?

    I am a tiny demo model: I solve word problems, edit lists, ...

It is there to train on and to see how far that carries, not to measure schedulers: it is none of `TASKS`.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from unmask.evals.tasks.base import Split, split_of
from unmask.evals.tasks.smalltalk_prompts import FIRST, PROMPTS, SLOTS

ANSWER = (
    "I am a tiny demo model: I solve word problems, edit lists, fill Sudoku grids, "
    "turn sentences into JSON and write small Python functions."
)
FIRST_SHARE = 0.15  # of the prompts are among the few that nearly everybody tries
CHANGE_SHARE = 0.3  # chance of each of: other case, other punctuation, a word of courtesy
TYPO_SHARE = 0.1

BEFORE = ("please ", "ok, ", "so, ", "well, ", "excuse me, ", "can you help me? ", "quick question: ")
AFTER = (" please", " thanks", " now", " for me", " quickly", " in one sentence", " thank you")
ENDS = ("", "", ".", "?", "!", "??", "...", " ?", "!!")

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class SmallTalk:
    prompt: str
    solution: str = ANSWER

    def grade(self, completion: str) -> bool:
        """Right when the completion is the sentence."""
        return completion.strip() == ANSWER


@dataclass(frozen=True)
class SmallTalkTask:
    """A stream of first prompts that never ends. What is asked, without its case, punctuation and courtesy, belongs to
    one split, as the prompts of a DrawnTask do; the few prompts that nearly everybody tries are always trained on.
    """

    name: str = "smalltalk"
    description: str = "natural first prompts, all answered by one sentence"
    max_tokens: int = 64

    def problems(self, seed: int, split: Split) -> Iterator[SmallTalk]:
        """Yield prompts of one split without end; equal seeds give equal prompts."""
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            plain = draw_plain(rng)
            if plain_split(plain) == split:
                yield SmallTalk(varied(rng, plain))


def draw_plain(rng: random.Random) -> str:
    """What is asked, with its slots filled."""
    prompt = rng.choice(FIRST if rng.random() < FIRST_SHARE else PROMPTS)
    return _SLOT.sub(lambda slot: rng.choice(SLOTS[slot[1]]), prompt)


def plain_split(plain: str) -> Split:
    return "train" if plain in FIRST else split_of(plain.lower())


def varied(rng: random.Random, plain: str) -> str:
    """The same as another might type it."""
    text = plain
    if rng.random() < CHANGE_SHARE:
        text = rng.choice((str.lower, str.lower, str.lower, str.upper, str.title))(text)
    if rng.random() < TYPO_SHARE:
        text = _mistyped(rng, text)
    if rng.random() < CHANGE_SHARE:
        text = text.rstrip("?!.") + rng.choice(ENDS)
    courtesy = rng.random()
    if courtesy < CHANGE_SHARE / 2:
        text = rng.choice(BEFORE) + text
    elif courtesy < CHANGE_SHARE:
        bare = text.rstrip("?!.")
        text = bare + rng.choice(AFTER) + text[len(bare) :]
    return text


def _mistyped(rng: random.Random, text: str) -> str:
    """One letter left out, or doubled, or exchanged with the next."""
    if len(text) < 4:
        return text
    i = rng.randrange(len(text) - 1)
    return text[:i] + rng.choice(("", text[i] * 2, text[i + 1] + text[i])) + text[i + 1 :]


SMALLTALK = SmallTalkTask()
