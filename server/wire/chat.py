"""The JSON of `POST /v1/chat/completions`."""

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from server.wire.answers import Diffusion, TokenSteps, Usage
from server.wire.fields import MAX_COUNT, Message, about
from server.wire.openai import MAX_TOP_LOGPROBS, NEUTRAL, OpenAIFields


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

    messages: list[Message] = Field(min_length=1, description="a conversation, put through the chat template")
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="OpenAI's newer name for `max_tokens`"
    )

    logprobs: bool | None = Field(
        None, description="tell of each token its log-probability at the step that revealed it"
    )
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="with `logprobs`: tell so many of the most probable tokens too"
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
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise about("max_tokens", "fields 'max_tokens' and 'max_completion_tokens' differ; give one of them")
        return self


class TopLogprob(BaseModel):
    """One of the most probable tokens."""

    token: str = Field(description="text of the token")
    logprob: float = Field(description="its log-probability")
    bytes: list[int] | None = Field(description="of the text; null where it is part of a character")


class TokenLogprob(TopLogprob):
    """A token of an answer, when it was revealed."""

    top_logprobs: list[TopLogprob] = Field(description="the most probable tokens, as many as were asked for")


class ChatLogprobs(BaseModel):
    """An entry a token."""

    content: list[TokenLogprob] = Field(description="an entry a token")
    refusal: None = Field(None, description="always null")


class AnswerMessage(BaseModel):
    """The answer, as the next turn of the conversation."""

    role: Literal["assistant"] = Field(description="always the assistant")
    content: str = Field(description="what was generated")
    refusal: None = Field(None, description="always null")


class ChatChoice(TokenSteps):
    """One answer."""

    index: int = Field(description="which choice")
    message: AnswerMessage = Field(description="the answer")
    logprobs: ChatLogprobs | None = Field(None, description="with `logprobs`")
    token_ids: list[int] | None = Field(None, description="with `return_token_ids`")
    finish_reason: Literal["stop", "length"] = Field(
        description="stop: an end of text or a stop text; length: the generation region is full"
    )


class ChatResponse(BaseModel):
    """The answer of `POST /v1/chat/completions`. Chunks of its stream have `delta` instead of `message`."""

    id: str = Field(description="of the answer, from `X-Request-Id` where the client sent one")
    object: Literal["chat.completion"] = Field("chat.completion", description="what this is")
    created: int = Field(description="when, in seconds since 1970")
    model: str = Field(description="that answered")
    prompt_token_ids: list[int] | None = Field(None, description="with `return_token_ids`")
    choices: list[ChatChoice] = Field(description="the answers")
    usage: Usage = Field(description="tokens in and out")
    diffusion: Diffusion = Field(description="how it came about")
