"""The checkpoints and policies that are shipped with the program, one folder each."""

from pathlib import Path

HERE = Path(__file__).parent


def find(name: str) -> Path | None:
    """The folder of a shipped checkpoint or policy, or None if no such folder exists."""
    return next((folder for folder in HERE.iterdir() if folder.is_dir() and folder.name == name), None)


def checkpoints() -> list[str]:
    """The names of the shipped checkpoints."""
    return sorted(config.parent.name for config in HERE.glob("*/config.json"))
