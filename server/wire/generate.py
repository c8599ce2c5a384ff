"""The JSON of `POST /generate`."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from unmask.server.wire.faults import about, expect
from unmask.server.wire.fields import MAX_NAME, MAX_TOKENS, GenerationFields, TokenIds
from unmask.server.wire.messages import Messages, Predicted, TemplateValues, check_template_values
from unmask.server.wire.responses import GenerationResponse, TokenSteps


class GenerateRequest(GenerationFields):
    """`POST /generate`. Give exactly one of `prompt`, `messages` and `input_ids`, or a `canvas`, or both."""

    model_config = ConfigDict(extra="forbid")

    prompt: str | None = Field(None, description="raw text; no special tokens are added")
    messages: Messages | None = Field(None, description="a conversation, put through the chat template")
    chat_template_kwargs: TemplateValues = None
    prediction: Predicted = None
    input_ids: TokenIds | None = Field(None, description="token ids")
    canvas: Annotated[
        str | Annotated[list[int | None], Field(max_length=MAX_TOKENS, fail_fast=True)] | None,
        expect("a text with mask markers, or a list of token ids and null for each mask"),
    ] = Field(
        None,
        description="a text or token ids with masks, which are filled in; it follows the prompt, if there is one. The "
        "generation region goes from the first mask to the last, so leave max_tokens out",
    )
    mask_marker: str | None = Field(
        None,
        min_length=1,
        max_length=MAX_NAME,
        description="the text for one mask in a canvas, by default [MASK]; if it ends in a closing bracket, it accepts "
        "a count, as in [MASK:12]. The model's own mask token works too",
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> "GenerateRequest":
        names = ("prompt", "messages", "input_ids")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) > 1 or (not given and self.canvas is None):
            raise about(
                "prompt",
                f"give exactly one of the fields {', '.join(names)}, or a canvas, not {' and '.join(given) or 'none'}",
            )
        check_template_values(self.messages, self.chat_template_kwargs)
        if self.canvas is not None and self.max_tokens is not None:
            raise about("max_tokens", "field 'max_tokens' is not for a canvas; its masks set the length, leave it out")
        if self.canvas is not None and self.prediction is not None:
            raise about("prediction", "field 'prediction' is not for a canvas; write what you expect into its text")
        if self.mask_marker is not None and not isinstance(self.canvas, str):
            raise about("mask_marker", "field 'mask_marker' is for a canvas that is a text; leave it out")
        return self


class GenerateResponse(GenerationResponse, TokenSteps):
    """The answer of `POST /generate`."""

    text: str = Field(description="the generated text")
    canvas: str | None = Field(None, description="with `canvas`: all of its text, with the masks filled in")
    token_ids: list[int] = Field(description="token ids of the text, without an end of text")
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: an end of text or a stop text; length: the generation region is full"
    )
