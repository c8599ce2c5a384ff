"""Faults of a body that pydantic does not find by itself, or would not say in one sentence."""

from typing import Any

from pydantic import BaseModel, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError


def expect(what: str) -> WrapValidator:
    """Report a value that fits no member of a union in one sentence, not one per member: an error of `about`, if one
    is among them."""

    def check(value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            told = next((found for found in error.errors(include_url=False) if found["type"] == "body"), None)
            if told is not None:
                within = told["loc"][1:]  # of the member, which stands first
                param = ".".join(map(str, (*within, told["ctx"]["param"]))) if told["ctx"]["param"] else None
                raise about(param, told["ctx"]["message"], told["ctx"]["code"]) from None
            raise PydanticCustomError("expected", "Input should be {what}", {"what": what}) from None

    return WrapValidator(check)


def about(field: str | None, message: str, code: str | None = None) -> PydanticCustomError:
    """An error of a whole object, about one of its fields; `code` is for programs."""
    return PydanticCustomError("body", "{message}", {"message": message, "param": field, "code": code})


def check_same(body: BaseModel, field: str, other: str) -> None:
    """Raise an error if two fields that mean the same are both given and differ."""
    one, two = getattr(body, field), getattr(body, other)
    if None not in (one, two) and one != two:
        raise about(field, f"fields {field!r} and {other!r} differ; give one of them")
