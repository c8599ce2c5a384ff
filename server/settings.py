"""The settings of `unmask serve`: each field is a flag, an environment variable and an entry of the help."""

import re
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from unmask import defaults
from unmask.settings import BATCH_INVARIANT, INPUT_STATE, PREFIX_REUSE, ModelSettings, Several

# What the extra `otel` installs and server/ops/tracing.py imports.
TRACING = ("opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_ORIGIN = re.compile(r"https?://[^/\s]+|\*")


LogFormat = Literal["text", "json"]


class ServeSettings(ModelSettings):
    """Serve a model over HTTP."""

    GROUPS: ClassVar[dict[str, str]] = {
        "model": f"{ModelSettings.GROUPS['model']} tensor_parallel",
        "server": "host port served_model_name chat_template ignore_tools log_format metrics_compat otel",
        "access": "api_key cors_origin allow_policy",
        "defaults of requests": "default_scheduler speed default_block_length default_max_tokens cache input_state",
        "limits": "max_rows batch_invariant prefix_reuse max_waiting max_model_len max_body_bytes request_timeout",
        "times": "keep_alive_interval idle_timeout shutdown_seconds step_timeout",
    }
    POSITIONAL: ClassVar[str | None] = "model"
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "unmask serve",
        "unmask serve OWNER/NAME --device cuda --max-rows 32",
        "unmask serve ./my-checkpoint --host 0.0.0.0 --api-key SECRET",
        "unmask serve --default-scheduler threshold --cache dual",
    )

    tensor_parallel: int = Field(
        defaults.TENSOR_PARALLEL,
        ge=1,
        description="processes that the model is split over, each with a CUDA device of its own; tried on CPUs only",
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 means every interface")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    served_model_name: str | None = Field(None, description="name of the model in the API; by default the model's own")
    chat_template: str | None = Field(
        None, description="file with a Jinja template for chats, in place of the model's own"
    )
    ignore_tools: bool = Field(
        False,
        description="take tools and neither show them to the model nor call them, for clients that send them always to "
        "models that know none",
    )
    api_key: Several[str] = Field(
        (),
        description="a key that requests must send as bearer token; probes and metrics need none; may be repeated",
    )
    cors_origin: Several[str] = Field(
        (), description="an origin, such as https://example.com, whose pages may call the API, or *; may be repeated"
    )
    log_format: LogFormat = Field("text", description="lines for people, or json")
    metrics_compat: Literal["vllm"] | None = Field(
        None, description="other names for the metrics, in addition: vllm, for dashboards and autoscalers made for vLLM"
    )
    otel: bool = Field(False, description="send traces to OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra unmask[otel]")
    allow_policy: Several[str] = Field(
        (),
        description="a folder that requests may name as policy, besides the shipped ones, or *; may be repeated",
    )
    batch_invariant: bool = Field(False, description=BATCH_INVARIANT)
    prefix_reuse: bool = Field(True, description=PREFIX_REUSE)
    max_rows: int = Field(defaults.MAX_ROWS, ge=1, description="requests that run side by side in one batch")
    max_waiting: int = Field(256, ge=1, description="requests that may wait for a row; the next one gets a 429")
    max_model_len: int | None = Field(
        None, ge=2, description="tokens of the longest canvas, with its prompt; by default the positions of the model"
    )
    max_body_bytes: int | None = Field(
        None,
        ge=1,
        description="a larger body gets a 413; by default 1 MiB to 8 MiB, by the model's length and --max-waiting",
    )
    request_timeout: float | None = Field(
        None, gt=0, description="seconds that a request may take, with waiting; a request may ask for less"
    )
    default_scheduler: str = Field(
        defaults.SCHEDULER, description="scheduler of requests that name none, with options as name:option=value"
    )
    speed: str | None = Field(
        None,
        description="for requests that name none: auto lets the load choose how careful their schedulers are, "
        "auto:low=0.2:high=0.8 between these shares of the way from careful to fast",
    )
    default_block_length: int = Field(
        defaults.BLOCK_LENGTH, ge=1, description="block length of requests that give none"
    )
    cache: str = Field(
        defaults.CACHE,
        description="cache of requests that name none: none, prefix, dual, dual:refresh=8, block, or auto",
    )
    input_state: str = Field(defaults.INPUT_STATE, description=f"for requests that name none: {INPUT_STATE}")
    default_max_tokens: int | None = Field(
        None,
        ge=1,
        description="length of the generation region of requests that give none, less where no more fits; by default "
        "the preset's, or 256, 2048 for block-causal models, or an eighth of the model's positions if that is less, "
        "and at least 64; /v1/completions has 16, as OpenAI",
    )
    keep_alive_interval: float = Field(
        15, gt=0, description="seconds of silence after which a stream sends a comment, so that no proxy closes it"
    )
    idle_timeout: int = Field(
        75, ge=1, description="seconds that a connection may idle; set more than your load balancer does"
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
        """The template itself. Its faults are reported before the model loads."""
        from unmask.models.tokenizer import read_chat_template

        return None if file is None else read_chat_template(Path(file))

    @field_validator("cors_origin")
    @classmethod
    def _is_origin(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin; give scheme and host, as https://example.com, or *")
        return origins

    @field_validator("otel")
    @classmethod
    def _can_trace(cls, wanted: bool) -> bool:
        try:
            for module in TRACING if wanted else ():
                import_module(module)
        except ImportError as error:
            raise ValueError(f"{error}; pip install 'unmask[otel]'") from None
        return wanted

    @field_validator("default_scheduler")
    @classmethod
    def _is_installed(cls, name: str) -> str:
        from unmask.schedulers import OptionError, UnknownSchedulerError, parse_scheduler_text

        try:
            parse_scheduler_text(name)
        except (UnknownSchedulerError, OptionError) as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("speed")
    @classmethod
    def _is_auto(cls, text: str | None) -> str | None:
        from unmask.engine.pace import parse_speed

        if text is not None:
            parse_speed(text)
        return text

    @field_validator("cache")
    @classmethod
    def _can_be_read(cls, text: str) -> str:
        from unmask.engine.caching import require_cache

        require_cache(text)
        return text

    @field_validator("input_state")
    @classmethod
    def _is_known(cls, text: str) -> str:
        from unmask.engine.input_state import require_input_state

        require_input_state(text)
        return text
