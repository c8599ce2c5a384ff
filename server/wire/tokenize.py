"""The JSON of `/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shapes."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from unmask.server.wire.faults import about
from unmask.server.wire.fields import Body, TokenIds
from unmask.server.wire.messages import Messages, TemplateValues, check_template_values


class TokenizeRequest(Body):
    """`POST /tokenize`. Give exactly one of `prompt` and `messages`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="name of the model or of one of its adapters; the model if left out")
    prompt: str | None = Field(None, description="raw text")
    messages: Messages | None = Field(
        None, description="a conversation, put through the chat template up to the start of the answer"
    )
    chat_template_kwargs: TemplateValues = None
    add_special_tokens: bool | None = Field(
        None,
        description="with `prompt`: add the tokens that the tokenizer adds at the ends of a text. By default nothing "
        "is added, as with prompts",
    )
    return_token_strs: bool | None = Field(None, description="return the tokens as the vocabulary writes them")

    @model_validator(mode="after")
    def _one_text(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise about("prompt", "give exactly one of the fields prompt, messages")
        check_template_values(self.messages, self.chat_template_kwargs)
        if self.messages is not None and self.add_special_tokens:
            raise about("add_special_tokens", "field 'add_special_tokens' is for a prompt, not for messages")
        return self


class TokenizeResponse(BaseModel):
    """The tokens of a text."""

    tokens: list[int] = Field(description="token ids")
    count: int = Field(description="number of tokens")
    max_model_len: int = Field(description="tokens of the longest canvas")
    token_strs: list[str] | None = Field(None, description="with `return_token_strs`")


class DetokenizeRequest(Body):
    """`POST /detokenize`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="name of the model or of one of its adapters; the model if left out")
    tokens: TokenIds = Field(description="token ids")


class DetokenizeResponse(BaseModel):
    """The text of some tokens, with special tokens."""

    prompt: str = Field(description="the text")


class TokenizerInfo(BaseModel):
    """What a client needs to count tokens and to apply the chat template itself."""

    tokenizer_class: str = Field(description="class of the transformers library")
    vocab_size: int = Field(description="number of token ids that have a text")
    model_max_length: int = Field(description="tokens of the longest canvas")
    bos_token: str | None = Field(description="begins a text")
    eos_token: str | None = Field(description="ends a text")
    pad_token: str | None = Field(description="pads a batch")
    mask_token: str = Field(description="stands for a masked position")
    mask_token_id: int = Field(description="id of the mask token")
    stop_token_ids: list[int] = Field(description="tokens that end a text")
    chat_template: str | None = Field(description="the template in use, in Jinja")
