"""The JSON of `POST /v1/chat/completions`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.fields import MAX_COUNT, MAX_MESSAGES, Message, about, check_same
from unmask.server.wire.openai import MAX_TOP_LOGPROBS, NEUTRAL, Choice, OpenAIFields, OpenAIResponse

NOT_IGNORED = ("audio", "function_call", "tool_calls")  # the answer would depend on them


class ChatMessage(Message):
    """One turn of a conversation as OpenAI's clients send it. Unknown names are ignored."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": True})

    @model_validator(mode="before")
    @classmethod
    def _without_unknown_names(cls, message: Any) -> Any:
        """The message without them. A value that is not an object is refused later."""
        known = (*cls.model_fields, *NOT_IGNORED)
        return {name: message[name] for name in known if name in message} if isinstance(message, dict) else message


ChatMessages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]


class ChatRequest(OpenAIFields):
    """`POST /v1/chat/completions`: OpenAI's fields and ours."""

    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        **NEUTRAL,
        "add_generation_prompt": (True,),
        "audio": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "documents": ([],),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "modalities": (["text"],),
        "parallel_tool_calls": (True, False),
        "prediction": (),
        "prompt": (),
        "reasoning_effort": ("none",),
        "store": (False,),
        "suffix": ("",),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "web_search_options": (),
    }

    messages: ChatMessages = Field(description="a conversation, put through the chat template")
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="OpenAI's newer name for `max_tokens`"
    )

    logprobs: bool | None = Field(None, description="return each token's log-probability at the step that revealed it")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="with `logprobs`: return this many of the most probable tokens too"
    )

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None

    @model_validator(mode="after")
    def _logprobs_for_the_top(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise about("top_logprobs", "field 'top_logprobs' needs 'logprobs': true; set it or leave the field out")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> "ChatRequest":
        check_same(self, "max_tokens", "max_completion_tokens")
        self.max_tokens = self.max_tokens or self.max_completion_tokens
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


class AnswerMessage(BaseModel):
    """The answer, as the next turn of the conversation."""

    role: Literal["assistant"] = Field(description="always `assistant`")
    content: str = Field(description="the generated text")
    refusal: None = Field(None, description="always null")


class ChatChoice(Choice):
    """One answer."""

    message: AnswerMessage = Field(description="the answer")
    logprobs: ChatLogprobs | None = Field(None, description="with `logprobs`")
    token_ids: list[int] | None = Field(None, description="with `return_token_ids`")


class ChatResponse(OpenAIResponse):
    """The answer of `POST /v1/chat/completions`. Chunks of its stream have `delta` instead of `message`."""

    object: Literal["chat.completion"] = Field("chat.completion", description="what this is")
    prompt_token_ids: list[int] | None = Field(None, description="with `return_token_ids`")
    choices: list[ChatChoice] = Field(description="the answers")
