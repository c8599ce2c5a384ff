"""How a problem is asked."""

from unmask.evals.tasks import Problem
from unmask.models.loading import Model


def prompt_ids(model: Model, problem: Problem, raw: bool = False) -> tuple[int, ...]:
    """Token ids of a problem's prompt: in the model's chat template, or without it if `raw` or if there is none."""
    return tuple(model.tokenizer.ask(problem.prompt, raw, end="\n\n"))
