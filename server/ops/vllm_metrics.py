"""The metrics under vLLM's names, for dashboards, autoscalers and load generators that read only those."""

from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

SAME = [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "admission_rejections",
    "prompt_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "generation_tokens",
    "request_success",
    "request_params_n",
    "request_params_max_tokens",
    "request_prompt_tokens",
    "request_generation_tokens",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
]
# vLLM's name of each metric, and ours. Names of counters lack `_total`, which the text format adds.
STEMS = {
    **{name: name for name in SAME},
    "iteration_tokens_total": "iteration_tokens",  # a histogram: `_total` is part of vLLM's name
    "diffusion_num_denoising_steps": "forward_passes",
    "diffusion_num_canvas_positions": "canvas_positions",
    "diffusion_num_committed_tokens": "revealed_tokens",
}


class VLLMMetrics(Collector):
    """Reads our registry at each scrape: schedulers summed up, with the labels `model_name` and `engine`."""

    def __init__(self, source: CollectorRegistry, model_name: Callable[[], str]):
        self._source = source
        self._model_name = model_name

    def text(self) -> bytes:
        """In Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        names = {f"unmask_{ours}": f"vllm:{theirs}" for theirs, ours in STEMS.items()}
        common = {"model_name": self._model_name(), "engine": "0"}
        for family in self._source.collect():
            if family.name in names:
                yield _renamed(family, names[family.name], common)
        preempted = Metric("vllm:num_preemptions", "requests that lost their row, which never happens", "counter")
        preempted.add_sample("vllm:num_preemptions_total", common, 0)
        yield preempted


def _renamed(family: Metric, name: str, common: dict[str, str]) -> Metric:
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
    for sample in family.samples:
        if not sample.name.endswith("_created"):
            labels = tuple(item for item in sample.labels.items() if item[0] != "scheduler")
            sums[sample.name.removeprefix(family.name), labels] += sample.value
    renamed = Metric(name, family.documentation, family.type)
    for (suffix, labels), value in sums.items():
        renamed.add_sample(name + suffix, common | dict(labels), value)
    return renamed
