"""Clients of others work unchanged: the packages themselves, against a server of ours on the embedded model."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import run
from tests.live import ANSWER, QUESTION, Live, live
from unmask.models.loading import Model

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^## Clients\n(.*?)^## ", re.DOTALL | re.MULTILINE)
LINES = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)
ROUNDING = 1e-3
MATHS: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 64}
GAP: dict[str, Any] = {"prompt": f"{QUESTION}\n\n", "suffix": ANSWER[20:], "max_tokens": 11}  # the first two lines

DOCUMENTS = [
    {
        "question": QUESTION,
        "answer": "20",
        "begun": ANSWER.removesuffix(" 20"),
        "choices": ["19", "20", "2"],
        "right": 1,
    },
    {
        "question": "Tom has 3 pears. Tom gets 5 more. Tom finds 2 more. How many pears does Tom have?",
        "answer": "10",
        "begun": "3 + 5 = 8\n8 + 2 = 10\n####",
        "choices": ["10", "12", "9"],
        "right": 0,
    },
]
DATA = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "tasks/documents.jsonl"}},
    "test_split": "test",
    "doc_to_text": "{{question}}",
}
NUMBER = [{"function": "regex", "regex_pattern": r"#### (\d+)"}, {"function": "take_first"}]
TASKS: list[dict[str, Any]] = [
    {
        **DATA,
        "task": "pears",
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["Tom has"], "max_gen_toks": 64},
        "filter_list": [{"name": "number", "filter": NUMBER}],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    {
        **DATA,
        "task": "pears_choice",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\n{{begun}}",
        "doc_to_choice": "choices",
        "doc_to_target": "right",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
]

LANGCHAIN = """
import json, sys
from langchain_openai import ChatOpenAI, OpenAI

url, asked, gap = sys.argv[1], *map(json.loads, sys.argv[2:])
server = {"base_url": url + "/v1", "api_key": "none", "model": "llada-nano"}
chat = ChatOpenAI(**server, stream_usage=True, extra_body={"scheduler": "margin", "block_length": 8})
whole = chat.invoke(asked["messages"])
chunks = list(chat.stream(asked["messages"]))
newer = ChatOpenAI(**server, use_responses_api=True).invoke(asked["messages"])
named = chat.invoke([{**message, "name": "bob"} for message in asked["messages"]])
write = OpenAI(**server, max_tokens=gap["max_tokens"], extra_body={"suffix": gap["suffix"]})
written = write.generate([gap["prompt"], gap["prompt"]])
print(json.dumps({
    "named": named.content,
    "newer": newer.text,
    "whole": [whole.content, whole.usage_metadata, whole.response_metadata["finish_reason"]],
    "stream": [[chunk.content, chunk.usage_metadata] for chunk in chunks],
    "written": [generation.text for (generation,) in written.generations],
    "written_usage": written.llm_output["token_usage"],
    "written_stream": list(write.stream(gap["prompt"])),
}))
"""
LITELLM = """
import json, sys
import litellm

url, asked, gap = sys.argv[1], *map(json.loads, sys.argv[2:])
litellm.suppress_debug_info = True
server = {"api_base": url + "/v1", "api_key": "none"}
told = {}
for provider in ("openai", "hosted_vllm"):
    model = {**server, "model": provider + "/llada-nano"}
    whole = litellm.completion(**model, **asked, scheduler="entropy")
    stream = litellm.completion(**model, **asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk.model_dump() for chunk in stream]
    told[provider] = {"whole": whole.model_dump(), "chunks": chunks}
    try:
        litellm.completion(**model, messages=[{**message, "content": "a b " * 600} for message in asked["messages"]])
    except litellm.ContextWindowExceededError as error:
        told["overflow of " + provider] = str(error)
for provider in ("openai", "text-completion-openai", "hosted_vllm"):
    model = {**server, "model": provider + "/llada-nano"}
    whole = litellm.text_completion(**model, **gap)
    chunks = [chunk.choices[0].text or "" for chunk in litellm.text_completion(**model, **gap, stream=True)]
    told["text by " + provider] = [whole.choices[0].text, whole.usage.completion_tokens, chunks]
for wrong in ({"temperature": 5}, {"scheduler": "best"}):
    try:
        litellm.completion(**server, model="openai/llada-nano", **{**asked, **wrong})
    except litellm.BadRequestError as error:
        told["refusal of " + min(wrong)] = [error.status_code, str(error), error.body["param"]]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a client runs: beside the weights, with tasks for lm-eval."""
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "documents.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in DOCUMENTS))
    for task in TASKS:
        (tmp_path / "tasks" / f"{task['task']}.yaml").write_text(json.dumps(task))  # YAML reads JSON
    return tmp_path


def documented(word: str, server: Live) -> str:
    """The lines of docs/api.md that begin with a word, for this server."""
    section = SECTION.search((ROOT / "docs" / "api.md").read_text())
    assert section is not None
    (found,) = (lines for _, lines in LINES.findall(section[1]) if lines.startswith(word))
    lines: str = found
    return lines.strip().replace("http://localhost:8000", server.url)


def generations(server: Live, scheduler: str) -> float:
    return server.metric("unmask_request_success_total", scheduler=scheduler, finished_reason="stop")


@pytest.mark.parametrize("package", ["openai", "langchain_openai", "litellm"])
def test_documented_lines_print_the_answer(server: Live, folder: Path, package: str) -> None:
    lines = documented(f"from {package} import", server)
    assert run(folder, sys.executable, "-c", lines) == f"{ANSWER}\n"


def test_langchain(server: Live, folder: Path) -> None:
    before = generations(server, "margin")
    told = json.loads(run(folder, sys.executable, "-c", LANGCHAIN, server.url, json.dumps(MATHS), json.dumps(GAP)))
    content, usage, reason = told["whole"]
    assert (content, reason) == (ANSWER, "stop")
    assert told["named"] == told["newer"] == ANSWER
    assert generations(server, "margin") == before + 3  # the scheduler that was asked for, each time
    native = server.generate(**MATHS)["usage"]
    assert [usage[name] for name in ("input_tokens", "output_tokens", "total_tokens")] == list(native.values())
    assert "".join(text for text, _ in told["stream"]) == ANSWER
    assert sum(bool(text) for text, _ in told["stream"]) >= 3
    assert [used for _, used in told["stream"] if used] == [usage]
    assert told["written"] == [ANSWER[:20]] * 2
    assert told["written_usage"]["completion_tokens"] == 22
    assert "".join(told["written_stream"]) == ANSWER[:20]


def test_litellm(server: Live, folder: Path) -> None:
    before = generations(server, "entropy")
    told = json.loads(run(folder, sys.executable, "-c", LITELLM, server.url, json.dumps(MATHS), json.dumps(GAP)))
    native = server.generate(**MATHS)["usage"]
    for provider in ("openai", "hosted_vllm"):
        whole, chunks = told[provider]["whole"], told[provider]["chunks"]
        (choice,) = whole["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER, "stop")
        assert native.items() <= whole["usage"].items()
        pieces = [choice["delta"]["content"] or "" for chunk in chunks for choice in chunk["choices"]]
        assert "".join(pieces) == ANSWER
        assert sum(map(bool, pieces)) >= 3
        assert native.items() <= chunks[-1]["usage"].items()
    assert generations(server, "entropy") == before + 2
    for provider in ("openai", "text-completion-openai", "hosted_vllm"):
        text, tokens, pieces = told[f"text by {provider}"]
        assert (text, tokens, "".join(pieces)) == (ANSWER[:20], 11, ANSWER[:20])
    for provider in ("openai", "hosted_vllm"):
        assert "maximum context length is 512 tokens" in told[f"overflow of {provider}"]
    for field, message in (("temperature", "less than or equal to 2, not 5"), ("scheduler", "unknown scheduler")):
        status, said, param = told[f"refusal of {field}"]
        assert (status, param) == (400, field)
        assert message in said


def _lines(folder: Path, pattern: str) -> list[str]:
    (file,) = folder.glob(pattern)
    return file.read_text().splitlines()


def evaluated(folder: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(scores, samples) of each task, as lm-eval has written them."""
    (results,) = (folder / "out").rglob("results_*.json")
    scores = json.loads(results.read_text())["results"]
    samples = {task: [json.loads(line) for line in _lines(results.parent, f"samples_{task}_2*")] for task in scores}
    return scores, samples


def log_likelihood(server: Live, context: str, continuation: str) -> float:
    """From /score: each token of the continuation, seen from all before it."""
    model: Model = server.app.state.backend.model
    ids, whole = (model.tokenizer.encode(text) for text in (context, context + continuation))
    rest = whole[len(ids) :]
    patterns = [list(range(i, len(rest))) for i in range(len(rest))]
    body = {"input_ids": whole[: len(ids)], "completion": rest, "patterns": patterns}
    scored = server.http.post("/score", json=body).json()["patterns"]
    return sum(one["log_probabilities"][0] for one in scored)


def test_lm_eval_generates(server: Live, folder: Path) -> None:
    before = generations(server, "threshold")
    run(folder, "sh", "-c", f"{documented('lm_eval run --tasks pears ', server)} --log_samples --output_path out")
    scores, samples = evaluated(folder)
    assert scores["pears"]["exact_match,number"] == 1
    assert generations(server, "threshold") == before + len(DOCUMENTS)
    for document, sample in zip(DOCUMENTS, samples["pears"], strict=True):
        asked = {"messages": [{"role": "user", "content": document["question"]}], "scheduler": "threshold"}
        assert sample["resps"] == [[server.generate(**asked)["text"]]]


def test_lm_eval_compares_log_likelihoods(server: Live, folder: Path) -> None:
    """With the server's tokens, and several prompts in a request. They are those of our own endpoint.

    The one token that lm-eval has generated is an end of text here, behind choices that are whole endings.
    """
    run(folder, "sh", "-c", f"{documented('lm_eval run --tasks pears_choice', server)} --log_samples --output_path out")
    scores, samples = evaluated(folder)
    assert scores["pears_choice"]["acc,none"] == 1
    assert len(samples["pears_choice"]) == len(DOCUMENTS)
    for sample in samples["pears_choice"]:
        asked = [(one["arg_0"], one["arg_1"]) for one in sample["arguments"].values()]
        told = [float(value) for ((value, _),) in sample["resps"]]
        expected = [log_likelihood(server, context, choice) for context, choice in asked]
        assert told == pytest.approx(expected, abs=ROUNDING, rel=ROUNDING)
        assert len(told) == 3


def test_guidellm_has_every_request_answered(server: Live, folder: Path) -> None:
    run(folder, "sh", "-c", f"{documented('guidellm run', server)} --output kind=json,path=bench.json")
    (benchmark,) = json.loads((folder / "bench.json").read_text())["benchmarks"]
    assert benchmark["metrics"]["request_totals"] == {"successful": 12, "errored": 0, "incomplete": 0, "total": 12}
    for request in benchmark["requests"]["successful"]:
        assert request["output_metrics"]["total_tokens"] == 16
