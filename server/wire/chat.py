"""The JSON of `POST /v1/chat/completions`."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from unmask.server.wire.faults import about
from unmask.server.wire.messages import Messages, Predicted, TemplateValues
from unmask.server.wire.openai import MAX_TOP_LOGPROBS, Choice, OpenAIFields, OpenAIResponse
from unmask.server.wire.tools import ToolFields


class ChatRequest(OpenAIFields, ToolFields):
    """`POST /v1/chat/completions`: OpenAI's fields and ours."""

    messages: Messages = Field(description="a conversation, put through the chat template")
    chat_template_kwargs: TemplateValues = None
    prediction: Predicted = None
    logprobs: bool | None = Field(None, description="return each token's log-probability at the step that revealed it")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="with `logprobs`: return this many of the most probable tokens too"
    )

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @model_validator(mode="after")
    def _snapshots_of_text(self) -> "ChatRequest":
        if self.diffusing and self.tools and self.tool_choice != "none":
            raise about("diffusing", "fields 'diffusing' and 'tools' exclude each other; leave one of the two out")
        return self

    @model_validator(mode="after")
    def _prediction_of_text(self) -> "ChatRequest":
        if self.prediction and self.tools and self.tool_choice != "none":
            raise about("prediction", "fields 'prediction' and 'tools' exclude each other; leave one of the two out")
        return self

    @model_validator(mode="after")
    def _logprobs_for_the_top(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise about("top_logprobs", "field 'top_logprobs' needs 'logprobs': true; set it or leave the field out")
        return self


class TopLogprob(BaseModel):
    """One of the most probable tokens."""

    token: str = Field(description="text of the token")
    logprob: float = Field(description="its log-probability")
    bytes: list[int] | None = Field(
        description="its UTF-8 bytes, which may be a part of a character; null if the vocabulary does not say"
    )


class TokenLogprob(TopLogprob):
    """A token of an answer, at the step that revealed it."""

    top_logprobs: list[TopLogprob] = Field(description="the most probable tokens, as many as asked for")


class ChatLogprobs(BaseModel):
    """One entry per token."""

    content: list[TokenLogprob] = Field(description="one entry per token")
    refusal: None = Field(None, description="always null")


class AnsweredFunction(BaseModel):
    """What an answer calls."""

    name: str = Field(description="name of the function")
    arguments: str = Field(description="the text of a JSON object")


class AnsweredCall(BaseModel):
    """A call, for the client to run."""

    id: str = Field(description="names the call, for the message with its result")
    type: Literal["function"] = Field(description="always `function`")
    function: AnsweredFunction = Field(description="the function and its arguments")


class AnswerMessage(BaseModel):
    """The answer, as the next turn of the conversation."""

    role: Literal["assistant"] = Field(description="always `assistant`")
    content: str | None = Field(description="the generated text; null if there are calls and no text")
    tool_calls: list[AnsweredCall] | None = Field(None, description="what the answer calls; in a stream each at once")
    refusal: None = Field(None, description="always null")


class ChatChoice(Choice):
    """One answer."""

    finish_reason: Literal["stop", "length", "tool_calls"] = Field(  # type: ignore[assignment]
        description="stop: an end of text or a stop text; length: the generation region is full; tool_calls: it calls "
        "tools; in a stream null until the choice ends"
    )

    message: AnswerMessage = Field(description="the answer")
    logprobs: ChatLogprobs | None = Field(None, description="with `logprobs`")
    token_ids: list[int] | None = Field(None, description="with `return_token_ids`")


class ChatResponse(OpenAIResponse):
    """The answer of `POST /v1/chat/completions`. Chunks of its stream have `delta` instead of `message`."""

    object: Literal["chat.completion"] = Field("chat.completion", description="what this is")
    prompt_token_ids: list[int] | None = Field(None, description="with `return_token_ids`")
    choices: list[ChatChoice] = Field(description="the answers")
