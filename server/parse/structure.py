"""From the fields of a body to the form of the answer."""

from pydantic_core import from_json

from unmask.engine.structure import Structure, choice, json_object, json_of, matching
from unmask.server.errors import BadRequestError
from unmask.server.wire.fields import GenerationFields
from unmask.server.wire.structure import ResponseFormat, StructuredOutputs


def structure_of(body: GenerationFields, asked: ResponseFormat | None, param: str) -> Structure | None:
    """The form that a body asks for, in a field `param` or in `structured_outputs`; None for any.

    Raises what `server.errors` maps to 400.
    """
    asked = asked if asked is not None and asked.type != "text" else None
    if asked and body.structured_outputs:
        raise BadRequestError(
            f"fields {param!r} and 'structured_outputs' exclude each other; leave one of the two out",
            "structured_outputs",
        )
    if asked:
        return _of_format(asked, param)
    return _of_outputs(body.structured_outputs) if body.structured_outputs else None


def _of_format(asked: ResponseFormat, param: str) -> Structure:
    return json_object(param) if asked.json_schema is None else json_of(asked.json_schema.schema_, param)


def _of_outputs(asked: StructuredOutputs) -> Structure:
    param = "structured_outputs"
    if asked.choice is not None:
        return choice(asked.choice, param)
    if asked.regex is not None:
        return matching(asked.regex, param)
    return json_object(param) if asked.json_ is None else json_of(_schema(asked.json_, param), param)


def _schema(given: object, param: str) -> object:
    if not isinstance(given, str):
        return given
    try:
        return from_json(given, allow_inf_nan=False)
    except ValueError:
        raise BadRequestError(
            f"field '{param}.json' is a text that is no JSON; send the schema itself", param
        ) from None
