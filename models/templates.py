"""Chat templates: Jinja programs that come with checkpoints, run in transformers' sandbox, and bounded besides."""

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unmask.models.errors import ChatTemplateError, first_line

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

MAX_PRODUCT = 1 << 20  # characters or items that a product may have, and bits of a number


def compile_template(text: str) -> "Template":
    """The program that a text is. Nothing of it runs yet. Raises jinja2.TemplateSyntaxError."""
    return _environment().from_string(text)


def knows(text: str, name: str) -> bool:
    """Whether a template uses a value of this name. Raises jinja2.TemplateSyntaxError."""
    from jinja2.meta import find_undeclared_variables

    return name in find_undeclared_variables(_environment().parse(text))


def render(
    template: "Template",
    messages: Sequence[Mapping[str, Any]],
    special_tokens: Mapping[str, str],
    values: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """What a template makes of a conversation, up to where the assistant's answer begins.

    values  what else it may know, by name, as `enable_thinking`
    tools   functions that the answer may call

    Raises ChatTemplateError for whatever goes wrong in it: it is a stranger's program, of these very messages. Raises
    it as well for a value of a name that is taken.
    """
    given = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": True, **special_tokens}
    if taken := given.keys() & values.keys():
        raise ChatTemplateError(f"the chat template is given {min(taken)!r} by the server; leave that value out")
    try:
        return template.render({**values, **given})
    except Exception as error:
        raise ChatTemplateError(f"the model's chat template refuses these messages: {first_line(error)}") from error


def _environment() -> "SandboxedEnvironment":
    """transformers' environment, with its tags and functions, but that constants are computed when they are needed.

    Jinja computes them when it compiles, and again a server starts or not by what a template holds: `'x' * 3000000000`.
    """
    from jinja2 import pass_context
    from transformers.utils.chat_template_utils import _compile_jinja_template

    @pass_context  # which only rendering has, so that outputs wait for it, too
    def late(context: object, value: Any) -> Any:
        return value

    environment = _compile_jinja_template("").environment.overlay(optimized=False, finalize=late)
    environment.intercepted_binops = frozenset({"*", "**"})
    environment.binop_table = {**environment.binop_table, "*": _product, "**": _power}
    return environment


def _product(left: Any, right: Any) -> Any:
    """left * right. Raises OverflowError instead of making a text or list of unreasonable length."""
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int) and len(many) * times > MAX_PRODUCT:
            raise OverflowError(f"{len(many)} characters or items, {times} times, are too many")
    return operator.mul(left, right)


def _power(left: Any, right: Any) -> Any:
    """left ** right. Raises OverflowError instead of computing an integer of unreasonable length."""
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > MAX_PRODUCT:
        raise OverflowError("the power is too large")
    return operator.pow(left, right)
