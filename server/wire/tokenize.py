"""The JSON of `/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shapes."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.chat import ChatMessages
from unmask.server.wire.fields import Body, TokenIds, about


class TokenizeRequest(Body):
    """`POST /tokenize`. Give exactly one of `prompt` and `messages`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="name of the model; may be left out, as one model is served")
    prompt: str | None = Field(None, description="raw text")
    messages: ChatMessages | None = Field(
        None, description="a conversation, put through the chat template up to where the answer begins"
    )
    add_special_tokens: bool | None = Field(
        None,
        description="with `prompt`: add what the tokenizer adds at the ends of a text. By default nothing is added, as "
        "nothing is to prompts",
    )
    return_token_strs: bool | None = Field(None, description="return the tokens as the vocabulary writes them")

    @model_validator(mode="after")
    def _one_text(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise about("prompt", "give exactly one of the fields prompt, messages")
        if self.messages is not None and self.add_special_tokens:
            raise about("add_special_tokens", "field 'add_special_tokens' is for a prompt, not for messages")
        return self


class TokenizeResponse(BaseModel):
    """The tokens of a text."""

    tokens: list[int] = Field(description="their ids")
    count: int = Field(description="how many")
    max_model_len: int = Field(description="the longest canvas")
    token_strs: list[str] | None = Field(None, description="with `return_token_strs`")


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="name of the model; may be left out, as one model is served")
    tokens: TokenIds = Field(description="token ids")


class DetokenizeResponse(BaseModel):
    """The text of some tokens, special ones included."""

    prompt: str = Field(description="the text")


class TokenizerInfo(BaseModel):
    """What a client needs to know to count tokens and to write chats by itself."""

    tokenizer_class: str = Field(description="of the transformers library")
    vocab_size: int = Field(description="ids from here on have no text")
    model_max_length: int = Field(description="the longest canvas")
    bos_token: str | None = Field(description="begins a text")
    eos_token: str | None = Field(description="ends a text")
    pad_token: str | None = Field(description="fills up")
    mask_token: str = Field(description="stands for what is not written yet")
    mask_token_id: int = Field(description="its id")
    stop_token_ids: list[int] = Field(description="tokens that end a text")
    chat_template: str | None = Field(description="in Jinja; the one in use")
