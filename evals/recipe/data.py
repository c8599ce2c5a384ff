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
SMALLEST_T = 1e-3
BLOCK_LENGTHS = (8, 16, 32, 64)


class Batch(NamedTuple):
    """Rows of all tasks, with masks drawn.

    canvas  (B, T) long     tokens, and masks where something is to be learned
    tokens  (B, T) long     what the masks stand for
    weight  (B, T) float32  of each position's cross-entropy in the loss; 0 where there is no mask
    task    (B,) long       number of each row's task, in the order of the blueprint
    """

    canvas: Tensor
    tokens: Tensor
    weight: Tensor
    task: Tensor


@dataclass(frozen=True)
class Rows:
    """Whole rows.

    tokens  (B, T) long
    answer  (B, T) bool  true from the end of the prompt on
    solved  (B,) long    tokens of the answer before its padding
    task    (B,) long
    """

    tokens: Tensor
    answer: Tensor
    solved: Tensor
    task: Tensor


class Steps(Dataset[Batch]):
    """What each optimizer step sees: rows of every task. A pure function of (tasks, seed, step).

    sizes        rows of a batch, by task
    widths       of a row, and how often a step has each
    block_share  of the rows, masked as decoding by blocks leaves them
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        sizes: Mapping[str, int],
        widths: Mapping[int, int],
        tokenizer: Tokenizer,
        seed: int,
        block_share: float = 0.0,
    ):
        self._tasks, self._sizes, self._widths, self._seed = tasks, sizes, widths, seed
        self._block_share = block_share
        self._encode = Encoder(tokenizer)
        self._mask_id = token_id(tokenizer, "mask_token")

    def __getitem__(self, step: int) -> Batch:
        seed = self._seed * 1_000_003 + step
        (width,) = random.Random(f"width/{seed}").choices([*self._widths], [*self._widths.values()])
        rows, generator = self.rows(seed, width), torch.Generator().manual_seed(seed)
        return draw_masks(rows, self._mask_id, generator, self._block_share)

    def rows(self, seed: int, width: int) -> Rows:
        """The rows of one step, before masks are drawn, task by task."""
        pairs, numbers = [], []
        for number, (name, task) in enumerate(self._tasks.items()):
            pairs += list(islice(self._fitting(name, task, seed, width), self._sizes[name]))
            numbers += [number] * self._sizes[name]
        tokens = torch.full((len(pairs), width), self._encode.end_of_text)
        answer = torch.zeros(len(pairs), width, dtype=torch.bool)
        for row, (prompt, solution) in enumerate(pairs):
            tokens[row, : len(prompt) + len(solution)] = torch.tensor(prompt + solution)
            answer[row, len(prompt) :] = True
        solved = torch.tensor([len(solution) for _, solution in pairs])
        return Rows(tokens, answer, solved, torch.tensor(numbers))

    def _fitting(self, name: str, task: Task, seed: int, width: int) -> Iterator[tuple[list[int], list[int]]]:
        rng = random.Random(f"rows/{name}/{seed}")
        for problem in task.problems(seed, "train"):
            prompt, solution = self._encode(problem, rng.random() < CHAT_SHARE)
            if len(prompt) + len(solution) <= width:
                yield prompt, solution


def draw_masks(rows: Rows, mask_id: int, generator: torch.Generator, block_share: float = 0.0) -> Batch:
    """Mask answer tokens with probability t, spread evenly over (SMALLEST_T, 1), one t for each row.

    A masked token weighs 1 / (t * tokens of the answer * rows): summed up, the objective of LLaDA's equation 5.

    Of a share of the rows, `block_share`, one block is drawn: what stands before it is given, and all that comes after
    it is masked and weighs nothing. Its tokens weigh as much more as the answer has blocks. Without that, an answer of
    one block would be seen at its beginning more often than one of many, and the model would learn to begin short ones.
    """
    count = rows.tokens.shape[0]
    even = (torch.arange(count) + torch.rand((), generator=generator)) / count
    t = (SMALLEST_T + (1 - SMALLEST_T) * even[torch.randperm(count, generator=generator)])[:, None]
    masked = (torch.rand(rows.tokens.shape, generator=generator) < t) & rows.answer
    weight = masked / (t * rows.answer.sum(1, keepdim=True) * count)
    if block_share:
        by_block = torch.rand(count, 1, generator=generator) < block_share
        inside, after, number = _draw_blocks(rows, generator)
        masked = torch.where(by_block, masked & inside | after, masked)
        weight = torch.where(by_block, weight * inside * number[:, None], weight)
    return Batch(rows.tokens.masked_fill(masked, mask_id), rows.tokens, weight, rows.task)


def _draw_blocks(rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Which tokens lie in a block of each answer, and which after it, (B, T) both, and among how many blocks it was
    drawn (B,): those that begin before the padding does. A block's length is one of BLOCK_LENGTHS."""
    count = len(rows.solved)
    length = torch.tensor(BLOCK_LENGTHS)[torch.randint(len(BLOCK_LENGTHS), (count,), generator=generator)]
    number = -(-rows.solved // length)
    drawn = (torch.rand(count, generator=generator) * number).long()
    place = rows.answer.cumsum(1) - 1 - (drawn * length)[:, None]  # in the block, from 0
    inside = rows.answer & (place >= 0) & (place < length[:, None])
    return inside, place >= length[:, None], number


def load(steps: Steps, first: int, last: int, workers: int, pin: bool = False) -> Iterator[Batch]:
    """The batches of the steps from `first` to before `last`, made ahead by `workers` processes; 0 makes them here."""
    yield from DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )


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
