"""The settings of `unmask bench`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from unmask import defaults
from unmask.evals.tasks import EMBEDDED, TASKS
from unmask.settings import BATCH_INVARIANT, INPUT_STATE, ModelSettings, OutFile, Several

Count = Annotated[int, Field(ge=1)]


class BenchSettings(ModelSettings):
    """Measure speed. Every scheduler, cache and concurrency is combined; all run in turn, round after round.

    Give several values with commas, or repeat the flag.
    """

    GROUPS: ClassVar[dict[str, str]] = {
        "what to measure": "task scheduler cache input_state concurrency batch_invariant block_length max_tokens",
        "runs": "requests rounds seed against reference_requests",
        "over HTTP": "http stream url rate",
        "results": "json_file",
        **ModelSettings.GROUPS,
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "unmask bench --scheduler topk,threshold",
        "unmask bench --concurrency 1,16 --against reference",
        "unmask bench --http --stream --rate 2 --concurrency 16",
    )

    task: Several[str] = Field(
        EMBEDDED, description=f"tasks whose problems are asked in turn: {', '.join(TASKS)}; answers are graded"
    )
    scheduler: Several[str] = Field(
        (defaults.SCHEDULER,),
        description="schedulers, with options as name:option=value; speed=auto lets the load choose their speed",
    )
    cache: Several[str] = Field(("none",), description="caches of keys and values, as none, prefix, dual:refresh=4")
    input_state: Several[str] = Field((defaults.INPUT_STATE,), description=INPUT_STATE)
    concurrency: Several[Count] = Field((1, 16), description="requests that run side by side")
    batch_invariant: Several[bool] = Field((False,), description=f"false, true or both; true: {BATCH_INVARIANT}")
    block_length: int = Field(defaults.BLOCK_LENGTH, ge=1, description="tokens per block")
    max_tokens: Several[Count] = Field(
        (), description="lengths of the generation region, which requests take in turn; by default each task's own"
    )
    requests: int = Field(64, ge=1, description="requests per run: held-out problems of the tasks in turn")
    rounds: int = Field(5, ge=1, description="timed runs of everything; the tables show medians over them")
    seed: int = Field(0, description="draws the problems and the arrival times")
    against: Literal["reference"] | None = Field(
        None, description="reference: also run LLaDA's published loop, one request after another, one token per pass"
    )
    reference_requests: int = Field(
        16,
        ge=1,
        description="requests that the reference, which is slow, answers: the first of all, in the same mix; its "
        "tokens/s are of these alone",
    )
    http: bool = Field(
        False,
        description="run everything over HTTP too; without --url, on a server that loads the model again",
    )
    stream: bool = Field(
        False, description="with --http: stream the steps, which costs some speed and times the first settled token"
    )
    url: str | None = Field(None, description="with --http: address of a running server of the same model")
    rate: float | None = Field(
        None,
        gt=0,
        description="with --http: requests per second, arriving at random (open loop), not by concurrency; nothing is "
        "then run without HTTP",
    )
    json_file: OutFile | None = Field(None, alias="json", description="also write the results there")
