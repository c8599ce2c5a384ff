"""Training batches for the embedded model: problems as LLaDA's fine-tuning lays them out.

A sequence is [prompt | answer | end-of-text padding]. The padding belongs to the answer: it is masked and learned
like any other token (LLaDA, arXiv 2502.09992, section 2.3), which is how the model learns where an answer ends.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unmask.evals.recipe.tokenizer import SPECIAL_TOKENS, token_id
from unmask.evals.tasks import Problem, Task

CHAT_SHARE = 0.5  # of the problems; the others are asked raw
# What a batch's answers are padded to: the region that the task is asked with, the longest answer, or another region.
REGIONS = ("usual", "longest", "other")
REGION_WEIGHTS = (0.6, 0.2, 0.2)
OTHER_REGIONS = (64, 96, 128, 192, 256)
WIDTH_MULTIPLE = 32  # few distinct widths, so that compiled code is reused
SMALLEST_T = 1e-3


class Batch(NamedTuple):
    """Rows of one task, with masks drawn.

    canvas  (B, T) long     tokens, and masks where something is to be learned
    tokens  (B, T) long     what the masks stand for
    weight  (B, T) float32  of each position's cross-entropy in the loss; 0 where there is no mask
    """

    canvas: Tensor
    tokens: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Rows:
    """Whole rows of one task. tokens (B, T) long; answer (B, T) bool, true from the end of the prompt on."""

    tokens: Tensor
    answer: Tensor


class Steps(Dataset[dict[str, Batch]]):
    """What each optimizer step sees: a batch of every task, by name. A pure function of (tasks, seed, step).

    sizes  rows of a batch, by task
    """

    def __init__(self, tasks: Mapping[str, Task], sizes: Mapping[str, int], tokenizer: Tokenizer, seed: int):
        self._tasks, self._sizes, self._seed = tasks, sizes, seed
        self._encode = Encoder(tokenizer)
        self._mask_id = token_id(tokenizer, "mask_token")

    def __getitem__(self, step: int) -> dict[str, Batch]:
        seed = self._seed * 1_000_003 + step
        generator = torch.Generator().manual_seed(seed)
        return {name: draw_masks(self.rows(name, seed), self._mask_id, generator) for name in self._tasks}

    def rows(self, name: str, seed: int) -> Rows:
        """The rows of one task, before masks are drawn."""
        task, rng = self._tasks[name], random.Random(f"rows/{name}/{seed}")
        problems = islice(task.problems(seed, "train"), self._sizes[name])
        pairs = [self._encode(problem, rng.random() < CHAT_SHARE) for problem in problems]
        longest = max(len(answer) for _, answer in pairs)
        (region,) = rng.choices(REGIONS, REGION_WEIGHTS)
        length = max(longest, {"usual": task.max_tokens, "longest": 0, "other": rng.choice(OTHER_REGIONS)}[region])
        width = max(len(prompt) for prompt, _ in pairs) + length
        return self._pad(pairs, -(-width // WIDTH_MULTIPLE) * WIDTH_MULTIPLE)

    def _pad(self, pairs: list[tuple[list[int], list[int]]], width: int) -> Rows:
        tokens = torch.full((len(pairs), width), self._encode.end_of_text)
        answer = torch.zeros(len(pairs), width, dtype=torch.bool)
        for row, (prompt, solution) in enumerate(pairs):
            tokens[row, : len(prompt) + len(solution)] = torch.tensor(prompt + solution)
            answer[row, len(prompt) :] = True
        return Rows(tokens, answer)


def draw_masks(rows: Rows, mask_id: int, generator: torch.Generator) -> Batch:
    """Mask answer tokens with probability t, spread evenly over (SMALLEST_T, 1), one t for each row.

    A masked token weighs 1 / (t * tokens of the answer * rows): summed up, the objective of LLaDA's equation 5.
    """
    count = rows.tokens.shape[0]
    even = (torch.arange(count) + torch.rand((), generator=generator)) / count
    t = (SMALLEST_T + (1 - SMALLEST_T) * even[torch.randperm(count, generator=generator)])[:, None]
    masked = (torch.rand(rows.tokens.shape, generator=generator) < t) & rows.answer
    weight = masked / (t * rows.answer.sum(1, keepdim=True) * count)
    return Batch(rows.tokens.masked_fill(masked, mask_id), rows.tokens, weight)


def load(steps: Steps, first: int, last: int, workers: int) -> Iterator[dict[str, Batch]]:
    """The batches of the steps from `first` to before `last`, made ahead by `workers` processes; 0 makes them here."""
    loader = DataLoader(steps, batch_size=None, sampler=range(first, last), num_workers=workers)
    yield from loader


class Encoder:
    """Problem -> (prompt ids, answer ids), raw or through the chat template."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        bos, start, end, turn = (
            SPECIAL_TOKENS[name] for name in ("bos_token", "start_header", "end_header", "end_of_turn")
        )
        self._before, self._after = f"{bos}{start}user{end}\n\n", f"{turn}{start}assistant{end}\n\n"
        self._end_of_turn = token_id(tokenizer, "end_of_turn")
        self.end_of_text = token_id(tokenizer, "eos_token")

    def __call__(self, problem: Problem, chat: bool) -> tuple[list[int], list[int]]:
        solution = self._ids(problem.solution)
        if chat:
            return self._ids(self._before + problem.prompt + self._after), [*solution, self._end_of_turn]
        return self._ids(problem.prompt + "\n\n"), [*solution, self.end_of_text]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)
