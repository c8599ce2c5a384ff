"""The JSON of `POST /v1/chat/completions`."""

from typing import ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from server.wire.answers import Diffusion, TokenSteps, Usage
from server.wire.fields import MAX_COUNT, Message, about
from server.wire.openai import NEUTRAL, OpenAIFields


class ChatRequest(OpenAIFields):
    """`POST /v1/chat/completions`: OpenAI's fields and ours."""

    neutral: ClassVar[dict[str, tuple[object, ...]]] = {
        **NEUTRAL,
        "add_generation_prompt": (True,),
        "audio": (),
        "chat_template": (),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "diffusing": (False,),
        "documents": ([],),
        "echo": (False,),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logprobs": (False,),
        "modalities": (["text"],),
        "parallel_tool_calls": (True, False),
        "prediction": (),
        "reasoning_effort": ("none",),
        "store": (False,),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "top_logprobs": (0,),
        "web_search_options": (),
    }

    messages: list[Message] = Field(min_length=1, description="a conversation, put through the chat template")
    max_completion_tokens: int | None = Field(
        None, ge=1, le=MAX_COUNT, description="OpenAI's newer name for `max_tokens`"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "ChatRequest":
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise about("max_tokens", "fields 'max_tokens' and 'max_completion_tokens' differ; give one of them")
        return self


class AnswerMessage(BaseModel):
    """The answer, as the next turn of the conversation."""

    role: Literal["assistant"]
    content: str
    refusal: None = None


class ChatChoice(TokenSteps):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatResponse(BaseModel):
    """The answer of `POST /v1/chat/completions`. Chunks of its stream have `delta` instead of `message`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    diffusion: Diffusion
