"""Training batches for the embedded model: problems as LLaDA's fine-tuning lays them out.

A sequence is [prompt | answer | end-of-text padding]. The padding belongs to the answer: it is masked and learned
like any other token (LLaDA, arXiv 2502.09992, section 2.3), which is how the model learns where an answer ends.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Tokenizer
from torch import Tensor

from unmask.evals.recipe.tokenizer import SPECIAL_TOKENS, token_id
from unmask.evals.tasks import Problem, Task

CHAT_SHARE = 0.5  # of the problems; the others are asked raw
FULL_CANVAS_SHARE = 0.15  # of the batches are padded to the whole canvas, the others to their longest answer
SORTED_TOGETHER = 4  # batches whose problems are sorted by length, so that little of a batch is padding
LENGTH_MULTIPLE = 16  # few distinct lengths, so that compiled graphs are reused


@dataclass(frozen=True)
class Batch:
    tokens: Tensor  # (B, T) long
    answer: Tensor  # (B, T) bool, true from the end of the prompt on


class Batches:
    """An endless stream of batches of one task, a pure function of (task, seed)."""

    def __init__(self, task: Task, tokenizer: Tokenizer, size: int, seed: int):
        self._task = task
        self._encode = Encoder(tokenizer)
        self._size = size
        self._problems = task.problems(seed, "train")
        self._rng = random.Random(f"batches/{task.name}/{seed}")

    def __iter__(self) -> Iterator[Batch]:
        while True:
            problems = islice(self._problems, SORTED_TOGETHER * self._size)
            pairs = [self._encode(problem, self._rng.random() < CHAT_SHARE) for problem in problems]
            pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
            groups = [pairs[start : start + self._size] for start in range(0, len(pairs), self._size)]
            self._rng.shuffle(groups)
            yield from map(self._pad, groups)

    def _pad(self, pairs: list[tuple[list[int], list[int]]]) -> Batch:
        longest = max(len(prompt) + len(answer) for prompt, answer in pairs)
        if self._rng.random() < FULL_CANVAS_SHARE:
            longest = max(len(prompt) for prompt, _ in pairs) + self._task.max_tokens
        width = -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        tokens = torch.full((len(pairs), width), self._encode.end_of_text)
        answer = torch.zeros(len(pairs), width, dtype=torch.bool)
        for row, (prompt, solution) in enumerate(pairs):
            tokens[row, : len(prompt) + len(solution)] = torch.tensor(prompt + solution)
            answer[row, len(prompt) :] = True
        return Batch(tokens, answer)


class Encoder:
    """Problem -> (prompt ids, answer ids), raw or through the chat template."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        bos, start, end, turn = (
            SPECIAL_TOKENS[name] for name in ("bos_token", "start_header", "end_header", "end_of_turn")
        )
        self._chat = f"{bos}{start}user{end}\n\n{{}}{turn}{start}assistant{end}\n\n"
        self._end_of_turn = token_id(tokenizer, "end_of_turn")
        self.end_of_text = token_id(tokenizer, "eos_token")

    def __call__(self, problem: Problem, chat: bool) -> tuple[list[int], list[int]]:
        solution = self._ids(problem.solution)
        if chat:
            return self._ids(self._chat.format(problem.prompt)), [*solution, self._end_of_turn]
        return self._ids(problem.prompt + "\n\n"), [*solution, self.end_of_text]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)
