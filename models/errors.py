"""The errors of this package.

ValueError
  CheckpointError    a model cannot be loaded: source, config, tensors, tokenizer, device or memory
  ChatTemplateError  messages cannot be turned into a prompt
"""

from pathlib import Path

from unmask.errors import UserError


class CheckpointError(UserError, ValueError):
    """A model that cannot be loaded. The message is one sentence: what is wrong and what to do."""


class ChatTemplateError(UserError, ValueError):
    """Messages that the model's chat template cannot render, or a model without one."""


def require_regular(path: Path) -> None:
    """Raise CheckpointError for a path that exists and is not a regular file, such as a pipe or a folder."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; put the original checkpoint's in its place")


def first_line(error: Exception) -> str:
    """The first line of an error of another library; some add lines of advice."""
    return str(error).strip().partition("\n")[0]
