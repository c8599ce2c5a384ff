"""The Python API answers as the server does, in order, and says what is wrong."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from inspect import signature
from itertools import pairwise
from typing import Any

import pytest

import unmask
from tests.live import ANSWER, QUESTION, Live, live
from unmask import LLM, asking, defaults
from unmask.engine.errors import RequestError, SchedulerError
from unmask.engine.figures import Figures
from unmask.llm import Output
from unmask.models.errors import CheckpointError
from unmask.schedulers import Decision, Needs, OptionError, State, UnknownSchedulerError, View, option, top_n
from unmask.server.settings import ServeSettings
from unmask.server.wire.responses import Diffusion

MESSAGES = [{"role": "user", "content": QUESTION}]
TIMED = ("tokens_per_second", "queue_seconds", "generate_seconds")
PROMPTS = [f"Ann has {i} coins. Ann finds {i + 1} more. How many coins does Ann have?\n\n" for i in range(1, 25)]
FIELDS: list[dict[str, Any]] = [
    {},
    {"scheduler": "threshold", "block_length": 16},
    {"threshold": 0.5, "max_tokens": 40, "block_length": 100},
    {"scheduler": {"name": "topk", "n": 4}, "stop": "="},
    {"scheduler": "random", "steps": 8, "seed": 3, "temperature": 0.7, "top_p": 0.9, "top_k": 20},
    {"policy": "any-speed", "speed": 0.8, "max_tokens": 48},
    {"cache": "dual:refresh=4", "scheduler": "entropy", "max_forward_passes": 20},
    {"min_tokens": 80, "scheduler": "threshold"},
    {"input_state": {"name": "residual", "alpha": 0.5}, "scheduler": "threshold"},
    {
        "presence_penalty": 1.0,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.3,
        "temperature": 0.8,
        "min_p": 0.1,
        "seed": 4,
    },
    {"logit_bias": {70: 9.5}, "max_tokens": 20},
    {"structured_outputs": {"json": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}},
    {"structured_outputs": {"choice": ["yes", "no", "no, never"]}},
]
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_tokens": 0}, RequestError, "max_tokens must be an integer of at least 1, not 0"),
    ({"max_tokens": 2.5}, RequestError, "max_tokens must be an integer of at least 1, not 2.5"),
    ({"min_tokens": 70, "max_tokens": 64}, RequestError, "min_tokens 70 is more than the max_tokens 64; ask for less"),
    ({"max_tokens": 600}, RequestError, "more than the 512 positions of the model; shorten one of them"),
    ({"block_length": True}, RequestError, "block_length must be an integer of at least 1, not True"),
    ({"temperature": "hot"}, RequestError, "temperature must be a number from 0 to 2, not 'hot'"),
    ({"temperature": float("nan")}, RequestError, "temperature must be a number from 0 to 2, not nan"),
    ({"seed": float("inf")}, RequestError, "seed must be an integer from 0 to"),
    ({"top_p": 0}, RequestError, "top_p must be a number above 0 and at most 1, not 0"),
    ({"seed": -1}, RequestError, "seed must be an integer from 0 to"),
    ({"stop": [""]}, RequestError, "stop must be a text or several, none of them empty"),
    ({"cache": "all"}, RequestError, "cache 'all' is unknown; the caches are: none, prefix, dual, block"),
    ({"cache": "block"}, RequestError, "cache 'block' is not for this model"),
    ({"input_state": "sofd"}, RequestError, "unknown input state 'sofd'; did you mean 'soft'?"),
    ({"input_state": {"name": "soft", "alpha": 1}}, RequestError, "unknown option 'alpha'; the options are: none"),
    ({"suffix": [999]}, RequestError, "suffix holds the token id 999; give ids from 0 to"),
    ({"min_p": 2}, RequestError, "min_p must be a number from 0 to 1, not 2"),
    ({"logit_bias": {"7": 1}}, RequestError, "logit_bias must be a mapping of token ids to numbers"),
    ({"logit_bias": {999: 1}}, RequestError, "logit_bias names the token 999; the model's tokens are 0 to"),
    ({"structured_outputs": {}}, RequestError, "structured_outputs must be a mapping with one of 'json'"),
    ({"structured_outputs": {"grammar": "a"}}, RequestError, "structured_outputs must be a mapping with one of 'json'"),
    ({"structured_outputs": {"json": {"not": {}}}}, RequestError, "'not', which is not supported"),
    ({"scheduler": 5}, RequestError, "scheduler must be a name, a mapping with 'name' and options, or an object"),
    ({"scheduler": {"n": 2}}, RequestError, "'scheduler.name' must be the name of a scheduler"),
    ({"scheduler": {"name": "threshold", "threshold": 1}, "threshold": 1}, RequestError, "is given twice"),
    ({"scheduler": "fastest"}, UnknownSchedulerError, "unknown scheduler 'fastest'; the schedulers are:"),
    ({"threshold": 2}, OptionError, "option 'threshold' must be a number from 0 to 1, not 2"),
    ({"scheduler": "topk", "threshold": 0.9}, OptionError, "unknown option 'threshold'; the options are: n, steps"),
    ({"treshold": 0.9}, TypeError, "unknown field 'treshold'; the fields are: max_tokens, block_length"),
]


class LeftToRight:
    """Reveals the leftmost masks."""

    needs = Needs()

    @dataclass(frozen=True)
    class Options:
        n: int = option(1, "tokens per step", minimum=1)

    def decide(self, view: View, state: State) -> Decision:
        return Decision(top_n(-view.positions.float(), view.eligible, view.options["n"]))


class Bare:
    """A scheduler that has no options, and fails if it is told to."""

    needs = Needs()

    def __init__(self, fails: bool):
        self.fails = fails

    def decide(self, view: View, state: State) -> Decision:
        if self.fails:
            raise ZeroDivisionError("on purpose")
        return Decision(view.eligible)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(device="cpu", dtype="float32", max_rows=5)


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("llada-nano") as running:
        yield running


def told(output: Output) -> dict[str, Any]:
    """What the server says of an answer, without what a clock has measured."""
    figures = {name: value for name, value in asdict(output.diffusion).items() if value is not None}
    diffusion = {name: value for name, value in figures.items() if name not in TIMED}
    return {
        "text": output.text,
        "token_ids": list(output.token_ids),
        "finish_reason": output.finish_reason,
        "prompt_tokens": output.prompt_tokens,
        "diffusion": diffusion,
    }


def said(answer: dict[str, Any]) -> dict[str, Any]:
    """The same of a server's answer."""
    diffusion = {name: value for name, value in answer["diffusion"].items() if name not in TIMED}
    kept = {name: answer[name] for name in ("text", "token_ids", "finish_reason")}
    return {**kept, "prompt_tokens": answer["usage"]["prompt_tokens"], "diffusion": diffusion}


@pytest.mark.parametrize("fields", FIELDS)
def test_answers_are_the_servers(llm: LLM, server: Live, fields: dict[str, Any]) -> None:
    expected = [said(server.generate(prompt=prompt, **fields)) for prompt in PROMPTS[:3]]
    assert [told(output) for output in llm.generate(PROMPTS[:3], **fields)] == expected
    assert told(llm.chat(MESSAGES, **fields)[0]) == said(server.generate(messages=MESSAGES, **fields))


def test_answers_of_many_prompts_come_in_order(llm: LLM) -> None:
    lengths = [4 + 3 * (i % 7) for i in range(len(PROMPTS))]
    ids: list[asking.Prompt] = [llm.model.tokenizer.encode(PROMPTS[i]) * (1 + i % 3) for i in range(len(lengths))]
    outputs = llm.generate(ids, threshold=0.8)
    assert len(outputs) == len(ids)
    assert [told(output) for output in outputs] == [told(llm.generate(one, threshold=0.8)[0]) for one in ids]


def test_text_ids_and_lists_of_one_are_the_same(llm: LLM) -> None:
    ids = llm.model.tokenizer.encode(PROMPTS[0])
    texts = [llm.generate(given)[0].text for given in (PROMPTS[0], ids, [PROMPTS[0]], [ids])]
    assert len(set(texts)) == 1
    assert llm.generate([]) == []
    assert [output.text for output in llm.chat([MESSAGES, MESSAGES])] == [ANSWER, ANSWER]


def test_choices_have_seeds_that_count_up(llm: LLM) -> None:
    asked: dict[str, Any] = {"temperature": 1.5, "scheduler": "random", "max_tokens": 12}
    choices = [output.text for output in llm.generate(PROMPTS[:2], n=3, seed=7, **asked)]
    assert choices == [llm.generate(prompt, seed=7 + i, **asked)[0].text for prompt in PROMPTS[:2] for i in range(3)]
    assert len(set(choices)) > 2
    assert len({output.text for output in llm.generate([PROMPTS[0]] * 64, **asked)}) > 1  # each draws a seed


def test_stream_makes_up_the_whole(llm: LLM) -> None:
    asked: dict[str, Any] = {"scheduler": {"name": "topk", "n": 3}, "block_length": 8}
    steps = list(llm.stream(PROMPTS[:3], **asked))
    for i, output in enumerate(llm.generate(PROMPTS[:3], **asked)):
        mine = [step for step in steps if step.request_id == str(i)]
        revealed = {reveal.position: reveal.token_id for step in mine for reveal in step.revealed}
        result = mine[-1].result
        assert result is not None
        assert (result.text, result.token_ids, result.reveals) == (output.text, output.token_ids, output.reveals)
        assert tuple(revealed[i] for i in range(len(output.token_ids))) == output.token_ids
        assert len(mine) == output.diffusion.forward_passes
        assert all(later.text.startswith(step.text) for step, later in pairwise(mine))


def test_stream_takes_conversations(llm: LLM) -> None:
    (*_, last) = llm.stream(MESSAGES, threshold=0.9)
    assert last.result is not None
    assert last.result.text == ANSWER


def test_suffix_counts_as_given_and_is_seen(llm: LLM, server: Live) -> None:
    body = {"prompt": "5 + 7 =", "suffix": "12 - 3 = 9", "max_tokens": 4, "temperature": 0}
    answer = server.http.post("/v1/completions", json=body).json()
    (output,) = llm.generate("5 + 7 =", suffix="12 - 3 = 9", max_tokens=4)
    assert output.text == answer["choices"][0]["text"]
    assert output.prompt_tokens == answer["usage"]["prompt_tokens"]
    assert output.reveals != llm.generate("5 + 7 =", max_tokens=4)[0].reveals


def test_scores_are_the_servers(llm: LLM, server: Live) -> None:
    asked: dict[str, Any] = {"patterns": [[0, 2], [1]], "coupled_pairs": 2, "likelihood_samples": 3, "seed": 5}
    wrong = ANSWER.replace("20", "21")
    (right, other) = llm.score([MESSAGES, MESSAGES], [ANSWER, wrong], **asked)
    answer = server.http.post("/score", json={"messages": MESSAGES, "completion": ANSWER, **asked}).json()
    assert right.likelihood is not None
    assert other.likelihood is not None
    assert right.likelihood.log_likelihood > other.likelihood.log_likelihood
    found = asdict(right)
    assert found.pop("token_ids") == tuple(answer["token_ids"])
    for name, value in found.items():
        assert flat(value) == pytest.approx(flat(answer[name]), abs=1e-4)  # rounding of passes of other shapes


def flat(value: Any) -> list[float]:
    """All numbers of a score, in order."""
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return [number for one in inside for number in flat(one)]
    return [value]


def test_score_without_a_wish_masks_the_whole(llm: LLM) -> None:
    (score,) = llm.score("", "5 + 7 = 12")
    assert score.patterns is not None
    assert score.patterns[0].masked == list(range(len(score.token_ids)))
    assert (score.coupled, score.likelihood, score.forward_passes) == (None, None, 1)


@pytest.mark.parametrize(("asked", "error", "message"), BAD)
def test_what_is_wrong_is_said(llm: LLM, asked: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        llm.generate("a", **asked)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], ""),
        (["a", ""], "prompts[1] holds no tokens; give at least one"),
        ([[5, -1]], "prompts[0] holds the token id -1"),
        ([5, "a"], "prompts[0] must be a text or token ids, not [5, 'a']"),
        ([None], "prompts[0] must be a text or token ids, not None"),
        ([{"role": "user"}], "prompts[0] must hold messages with the texts 'role' and 'content', not {'role': 'user'}"),
        ([{"role": "user", "content": None}], "must hold messages with the texts"),
    ],
)
def test_prompts_are_checked(llm: LLM, messages: Any, message: str) -> None:
    if not message:
        assert list(llm.stream(messages)) == []
        return
    with pytest.raises(RequestError) as raised:
        llm.stream(messages)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"completions": ["a", "b"]}, "there are 1 prompts and 2 completions; give as many of each"),
        ({"completions": ""}, "completions[0] holds no tokens"),
        ({"completions": "a<|mdm_mask|>"}, "completions[0] holds a mask"),
        ({"completions": [1] * 512}, "more than the 512 positions"),
        ({"completions": [1, 2], "patterns": [[0, 2]]}, "'patterns.0' must hold different positions from 0 to 1"),
        ({"completions": [1, 2], "patterns": [[]]}, "'patterns.0' must hold different positions from 0 to 1"),
        ({"completions": [1, 2], "coupled_pairs": -1}, "coupled_pairs must be an integer of at least 0, not -1"),
    ],
)
def test_what_is_scored_is_checked(llm: LLM, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as raised:
        llm.score("a", **asked)
    assert message in str(raised.value)


def test_models_are_checked() -> None:
    with pytest.raises(CheckpointError, match="no folder, no preset and no Hub id"):
        LLM("no-such-model")
    with pytest.raises(RequestError, match="max_rows must be an integer of at least 1, not 0"):
        LLM(max_rows=0)
    with pytest.raises(RequestError, match="memory_fraction must be a number between 0 and 1, not 1"):
        LLM(memory_fraction=1)


def test_own_scheduler_needs_no_package(llm: LLM) -> None:
    for n, scheduler in ((1, LeftToRight()), (3, {"name": LeftToRight(), "n": 3})):
        asked: Any = scheduler
        (output,) = llm.generate(PROMPTS[0], scheduler=asked, ignore_eos=True, max_tokens=12)
        assert [reveal.position for reveal in output.reveals] == list(range(12))
        assert output.diffusion.scheduler == {"name": "LeftToRight", "n": n}
        assert output.diffusion.forward_passes == 12 // n
    with pytest.raises(OptionError, match="option 'n' must be an integer of at least 1, not 0"):
        llm.generate("a", scheduler={"name": LeftToRight(), "n": 0})


def test_own_scheduler_is_checked(llm: LLM) -> None:
    wrong: list[Any] = [LeftToRight, object()]
    for scheduler in wrong:
        with pytest.raises(RequestError, match="or an object with 'needs' and 'decide'"):
            llm.generate("a", scheduler=scheduler)
    needless: Any = Bare(fails=False)
    needless.needs = None
    with pytest.raises(RequestError, match="scheduler 'Bare' does not say what it needs"):
        llm.generate("a", scheduler=needless)


def test_scheduler_that_fails_is_shown_and_harms_nothing(llm: LLM) -> None:
    good, bad = (Bare(fails) for fails in (False, True))
    asked: list[Any] = [good, bad]
    assert llm.generate(PROMPTS[0], scheduler=asked[0])[0].diffusion.scheduler == {"name": "Bare"}
    with pytest.raises(SchedulerError, match="scheduler 'Bare' failed: ZeroDivisionError: on purpose") as raised:
        llm.generate(PROMPTS, scheduler=asked[1])
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert llm.chat(MESSAGES)[0].text == ANSWER


def test_one_call_at_a_time(llm: LLM) -> None:
    stream = llm.stream(PROMPTS)
    next(stream)
    for call in (lambda: llm.generate("a"), lambda: llm.score("a", "b")):
        with pytest.raises(RuntimeError, match="another call of this LLM is under way"):
            call()
    stream.close()
    assert llm.chat(MESSAGES)[0].text == ANSWER


def test_bar_is_for_terminals(llm: LLM, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    llm.generate(PROMPTS[:2], threshold=0.9)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes what it writes to for a terminal then
    llm.generate(PROMPTS[:2], threshold=0.9, progress=False)
    assert capfd.readouterr() == ("", "")
    llm.generate(PROMPTS[:2], threshold=0.9)
    assert "2/2" in capfd.readouterr().err


def test_names_and_defaults_are_the_servers(llm: LLM, server: Live) -> None:
    theirs = [name for name in Diffusion.model_fields if name not in ("ar_ness", "loose_tools")]
    assert [field.name for field in fields(Figures)] == theirs
    (request,) = asking.as_requests([(3,)], {}, llm.model)
    servers = [ServeSettings.model_fields[f"default_{name}"] for name in ("scheduler", "block_length")]
    assert (request.scheduler.name, request.block_length) == tuple(field.default for field in servers)
    assert request.max_tokens == server.generate(prompt="a")["diffusion"]["length"] == 64
    text = asking.Fields.__doc__ or ""
    assert f"left to right; {defaults.BLOCK_LENGTH}. " in text
    assert f'options; "{defaults.SCHEDULER}". ' in text
    assert request.input_state.name == "mask"
    assert ServeSettings.model_fields["input_state"].default == defaults.INPUT_STATE
    assert f'block; "{defaults.CACHE}"\n' in text
    sizes = signature(LLM.__init__).parameters
    for name in ("max_rows", "memory_fraction"):
        assert sizes[name].default == ServeSettings.model_fields[name].default


def test_import_takes_no_torch() -> None:
    code = "import sys, unmask; print('torch' in sys.modules); unmask.LLM; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"]


def test_package_has_no_other_name() -> None:
    with pytest.raises(AttributeError, match="module 'unmask' has no attribute 'LMM'"):
        unmask.LMM  # type: ignore[attr-defined]  # noqa: B018
