"""An inference server for masked diffusion language models with pluggable unmasking schedulers."""

from typing import TYPE_CHECKING

__all__ = ["LLM"]

if TYPE_CHECKING:
    from unmask.llm import LLM
else:

    def __getattr__(name: str) -> object:
        """Import `LLM`, and with it torch, when it is asked for: `unmask --help` needs neither."""
        if name != "LLM":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from unmask.llm import LLM

        return LLM
