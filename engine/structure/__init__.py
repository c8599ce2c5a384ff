"""Structured output: answers that match a regular expression or a JSON schema, whatever the model proposes."""

from unmask.engine.structure.request import Structure

__all__ = ["Structure"]
