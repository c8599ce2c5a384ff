"""Names the packages that `make gpu` lacks, all at once: it runs with those of an image, and fetches none."""

import re
import sys
from importlib.metadata import distributions, requires


def missing() -> list[str]:
    """What unmask needs without its extras, and pytest, as far as it is not installed."""
    wanted = [text for text in requires("unmask") or [] if "extra ==" not in text]
    installed = {_plain(found.name) for found in distributions()}
    return [name for name in map(_plain, [*wanted, "pytest"]) if name not in installed]


def _plain(requirement: str) -> str:
    """The name of a package as all spellings of it are compared."""
    return re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-").replace(".", "-")


if __name__ == "__main__" and (names := missing()):
    sys.exit(f"make gpu lacks {', '.join(names)}; install them for PYTHON, or name another: make gpu PYTHON=python3")
