"""What of docs/python.md is written by machine: what its examples print. `python -m tests.python_page` writes it anew;
a test finds out if that is due."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
EXAMPLE = re.compile(r"(```python\n(.*?)```\n\n```text\n)(.*?)```", re.DOTALL)
DECIMALS = re.compile(r"-?\d+(?:\.\d+(?:e-\d+)?|e-\d+)")


def render(page: str) -> str:
    """The page with what its examples print now, one after another in one namespace."""
    namespace: dict[str, Any] = {"__name__": "page"}
    return EXAMPLE.sub(lambda found: f"{found[1]}{printed(found[2], namespace)}```", page)


def printed(code: str, namespace: dict[str, Any]) -> str:
    """What a piece of code prints. It may change the namespace."""
    with redirect_stdout(io.StringIO()) as output:
        exec(compile(code, "<example>", "exec"), namespace)
    return output.getvalue()


def stable(page: str) -> str:
    """The page without decimals, which are times and the rounding of one machine."""
    return DECIMALS.sub("~", page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
