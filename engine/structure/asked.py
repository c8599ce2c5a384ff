"""The structures that a client may ask for. All raise RequestError, which names the field and the remedy."""

from collections.abc import Callable, Sequence
from typing import Any

from unmask.engine.structure.pattern import escaped, without_anchors
from unmask.engine.structure.request import Structure, StructureError
from unmask.engine.structure.schema import object_regex, schema_regex


def json_object(param: str) -> Structure:
    """Any JSON object, nested to a bounded depth."""
    return Structure(object_regex(), param)


def json_of(schema: Any, param: str) -> Structure:
    """JSON that a schema accepts."""
    return _made(lambda: schema_regex(schema), param)


def choice(texts: Sequence[str], param: str) -> Structure:
    """One of some texts."""
    return Structure("|".join(map(escaped, texts)), param)


def matching(regex: str, param: str) -> Structure:
    """A text that matches as a whole."""
    return Structure(without_anchors(regex), param)


def _made(regex: Callable[[], str], param: str) -> Structure:
    try:
        return Structure(regex(), param)
    except StructureError as error:
        raise Structure("", param).refused(str(error)) from None
