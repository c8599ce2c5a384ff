"""How a problem is asked: through the model's chat template where it has one."""

from unmask.evals.tasks import Problem
from unmask.models.loading import Model


def prompt_ids(model: Model, problem: Problem, raw: bool = False) -> tuple[int, ...]:
    """Token ids of a problem's prompt; `raw` leaves the chat template out."""
    if raw or not model.tokenizer.has_chat_template:
        return tuple(model.tokenizer.encode(problem.prompt + "\n\n"))
    return tuple(model.tokenizer.chat([{"role": "user", "content": problem.prompt}]))
