"""Structured output: answers that match a regular expression or a JSON schema, whatever the model proposes."""

from unmask.engine.structure.asked import choice, json_object, json_of, matching
from unmask.engine.structure.request import Structure

__all__ = ["Structure", "choice", "json_object", "json_of", "matching"]
