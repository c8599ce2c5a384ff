"""The requests of a benchmark: held-out problems of some tasks in turn, with the wanted lengths."""

import math
from collections.abc import Sequence
from itertools import islice

from unmask.engine.caching import Cache
from unmask.engine.request import Request, fit_block_length
from unmask.errors import UserError
from unmask.evals.prompts import prompt_ids
from unmask.evals.tasks import EMBEDDED, TASKS, Problem
from unmask.models.loading import Model
from unmask.schedulers import SchedulerSpec


def workload(
    model: Model,
    count: int,
    seed: int,
    max_tokens: Sequence[int],
    scheduler: SchedulerSpec,
    cache: Cache,
    block_length: int,
    tasks: Sequence[str] = EMBEDDED,
) -> list[Request]:
    """`count` requests, of some tasks in turn, by default the embedded model's, so that prompts differ in length.

    max_tokens  lengths of the generation region, taken in turn; by default each task's own
    """
    requests = []
    for i, problem in enumerate(problems_of(tasks, count, seed)):
        task, turn = TASKS[tasks[i % len(tasks)]], i // len(tasks)
        prompt = prompt_ids(model, problem)
        length = max_tokens[turn % len(max_tokens)] if max_tokens else task.max_tokens
        if len(prompt) + length > model.max_positions:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and --max-tokens of {length} tokens are more than "
                f"the {model.max_positions} positions of the model; give a smaller --max-tokens"
            )
        block = fit_block_length(block_length, length, model.network.architecture)
        requests.append(Request(str(i), prompt, length, block, scheduler, seed=i, cache=cache))
    return requests


def problems_of(tasks: Sequence[str], count: int, seed: int) -> list[Problem]:
    """The problems that the requests ask, in their order."""
    each = [islice(TASKS[name].problems(seed, "held-out"), math.ceil(count / len(tasks))) for name in tasks]
    return [next(each[i % len(tasks)]) for i in range(count)]


def kinds(max_tokens: Sequence[int], tasks: Sequence[str] = EMBEDDED) -> int:
    """The number of requests after which the mix of tasks and lengths repeats."""
    return len(tasks) * max(len(max_tokens), 1)
