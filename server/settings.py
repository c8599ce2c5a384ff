"""The settings of `unmask serve`: each field is a flag, an environment variable and a line of help."""

import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from unmask.engine.caching import AUTO, parse_cache
from unmask.engine.settings import BATCH_INVARIANT, ModelSettings
from unmask.models.tokenizer import read_chat_template
from unmask.schedulers import UnknownSchedulerError, scheduler_class
from unmask.server.logs import LogFormat

_ORIGIN = re.compile(r"https?://[^/\s]+|\*")


def _split(given: object) -> object:
    """The values of a text. Raises ValueError if there are none: a variable that is empty by mistake opens no door."""
    if not isinstance(given, str):
        return given
    if not (values := [value.strip() for value in given.split(",") if value.strip()]):
        raise ValueError("it is empty; give a value, or leave it out")
    return values


# A flag that may be repeated; its values, and those of the variable, may also stand in one with commas between.
Several = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class ServeSettings(ModelSettings):
    """Serve a model over HTTP."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 is every interface")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    served_model_name: str | None = Field(None, description="name of the model in the API; by default its own")
    chat_template: str | None = Field(
        None, description="file with a Jinja template that is used for chats instead of the model's, or gives it one"
    )
    api_key: Several = Field(
        (), description="a key that requests must bring as a bearer token, but for probes and metrics; may be repeated"
    )
    cors_origin: Several = Field(
        (), description="an origin, as https://example.com, whose pages browsers let in, or *; may be repeated"
    )
    log_format: LogFormat = Field("text", description="lines for people, or json")
    metrics_compat: Literal["vllm"] | None = Field(
        None, description="whose names /metrics uses beside its own: vllm, for dashboards and autoscalers made for it"
    )
    otel: bool = Field(
        False, description="send traces to where OTEL_EXPORTER_OTLP_ENDPOINT says; needs the extra unmask[otel]"
    )
    allow_policy: Several = Field(
        (), description="a folder that requests may name as their policy beside the shipped ones, or *; may be repeated"
    )
    batch_invariant: bool = Field(False, description=BATCH_INVARIANT)
    max_rows: int = Field(16, ge=1, description="requests that run side by side in one batch")
    max_waiting: int = Field(256, ge=1, description="requests that may wait for a row; one more is answered with 429")
    max_model_len: int | None = Field(
        None, ge=2, description="tokens of the longest canvas, prompt included; by default what the model can do"
    )
    max_body_bytes: int | None = Field(
        None,
        ge=1,
        description="a larger body is answered with 413; by default what the model's length and max_waiting have a use "
        "for, from 1 MiB to 8 MiB",
    )
    request_timeout: float | None = Field(
        None, gt=0, description="seconds that a request may take, waiting included; a request may ask for less"
    )
    default_scheduler: str = Field("topk", description="scheduler of requests that name none")
    default_block_length: int = Field(32, ge=1, description="block length of requests that give none")
    cache: str = Field(
        "auto", description="cache of requests that name none: none, prefix, dual, dual:refresh=8, block, or auto"
    )
    default_max_tokens: int = Field(
        64, ge=1, description="length of the generation region of /generate requests that give none"
    )
    keep_alive_interval: float = Field(
        15, gt=0, description="seconds of silence after which a stream gets a comment, so that nothing cuts it"
    )
    idle_timeout: int = Field(
        75, ge=1, description="seconds that a connection may idle; more than load balancers in front let theirs idle"
    )
    shutdown_seconds: int = Field(30, ge=0, description="seconds that running requests may take to end on shutdown")
    step_timeout: float = Field(
        600,
        gt=0,
        description="seconds after which a step, or reading a request, counts as hung, and the server ends",
    )

    @field_validator("chat_template")
    @classmethod
    def _read(cls, file: str | None) -> str | None:
        """The template itself, so that what is wrong with it is said before the model loads."""
        return None if file is None else read_chat_template(Path(file))

    @field_validator("cors_origin")
    @classmethod
    def _is_origin(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin; give scheme and host, as https://example.com, or *")
        return origins

    @field_validator("otel")
    @classmethod
    def _can_trace(cls, wanted: bool) -> bool:
        try:
            if wanted:
                import_module("unmask.server.tracing")
        except ImportError as error:
            raise ValueError(f"{error}; pip install 'unmask[otel]'") from None
        return wanted

    @field_validator("default_scheduler")
    @classmethod
    def _is_installed(cls, name: str) -> str:
        try:
            scheduler_class(name)
        except UnknownSchedulerError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("cache")
    @classmethod
    def _can_be_read(cls, text: str) -> str:
        if text != AUTO:
            parse_cache(text)
        return text
