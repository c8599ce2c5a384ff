"""What can go wrong in this room.

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
    """Raise CheckpointError for what is there and would be read for ever, like a pipe, or cannot be, like a folder."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is no regular file; put the original checkpoint's in its place")


def first_line(error: Exception) -> str:
    """What an error of another library says, without the lines of advice that some add."""
    return str(error).strip().partition("\n")[0]
