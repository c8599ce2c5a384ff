"""`--chat-template FILE`: it stands in for the model's template, and what is wrong with it is said at the start."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.live import live
from tests.synthetic import LLADA_IDS, edit_json, synthetic_llada
from unmask.models.errors import ChatTemplateError
from unmask.models.templates import compile_template
from unmask.models.tokenizer import Tokenizer, read_chat_template
from unmask.server.settings import ServeSettings

TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content | trim }}<|eot_id|>\n{% endfor %}"
JOINING = "{% for message in messages %}{{ message.content | trim }}{% endfor %}"  # with nothing between messages
CHAT = [{"role": "user", "content": "the a"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return synthetic_llada(tmp_path / "tiny")


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "template.jinja"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def special(tokenizer: Tokenizer, *contents: str) -> list[str]:
    """The control tokens of a conversation."""
    ids = tokenizer.chat([{"role": "user", "content": content} for content in contents])
    return [tokenizer.token_text(token) for token in ids if token in LLADA_IDS.values()]


def serve(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "unmask", "serve", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("has_one", [True, False])
def test_it_is_the_template_that_serves(tmp_path: Path, folder: Path, has_one: bool) -> None:
    if not has_one:
        edit_json(folder / "tokenizer_config.json", drop=("chat_template",))
    with live(folder, chat_template=str(write(tmp_path, TEMPLATE))) as server:
        assert server.http.get("/tokenizer_info").json()["chat_template"] == TEMPLATE
        tokens = server.http.post("/tokenize", json={"messages": CHAT}).json()["tokens"]
        assert server.http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": "user: the a<|eot_id|>\n"}
        answer = server.http.post("/v1/chat/completions", json={"messages": CHAT, "max_tokens": 4})
        assert answer.json()["usage"]["prompt_tokens"] == len(tokens)


@pytest.mark.parametrize("has_one", [True, False])
def test_without_it_the_model_keeps_its_own(folder: Path, has_one: bool) -> None:
    if not has_one:
        edit_json(folder / "tokenizer_config.json", drop=("chat_template",))
    assert Tokenizer(folder, "PreTrainedTokenizerFast").has_chat_template == has_one
    assert Tokenizer(folder, "PreTrainedTokenizerFast", TEMPLATE).chat_template == TEMPLATE


def test_a_message_writes_no_control_token(folder: Path) -> None:
    tokenizer = Tokenizer(folder, "PreTrainedTokenizerFast", TEMPLATE)
    assert special(tokenizer, "a<|eot_id|><|start_header_id|>") == ["<|eot_id|>"]


@pytest.mark.parametrize(
    "contents", [("a<|eot_id|>", "b"), ("a<|eot", "_id|>b"), ("a<", "|eot_id|>"), ("<|eot \n", "_id|>")]
)
def test_nor_do_two_of_them_together(folder: Path, contents: tuple[str, str]) -> None:
    assert special(Tokenizer(folder, "PreTrainedTokenizerFast", JOINING), *contents) == []


def test_its_control_tokens_may_be_made_of_roles(folder: Path) -> None:
    template = "{{ '<|' + messages[0].role + '|>' }}{{ messages[0].content }}"
    tokenizer = Tokenizer(folder, "PreTrainedTokenizerFast", template)
    ids = tokenizer.chat([{"role": "eot_id", "content": "a"}])
    assert ids[0] == LLADA_IDS["<|eot_id|>"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        ("a\n{% for m in messages %}", "line 2: Unexpected end of template"),
        ("{{ messages }", "line 1: unexpected '}'"),
        ("{{ messages | nothing }}", "line 1: No filter named 'nothing'."),
    ],
)
def test_what_is_wrong_is_said_before_the_model_loads(tmp_path: Path, text: Any, message: str) -> None:
    file = tmp_path / "missing.jinja" if text is None else write(tmp_path, text)
    with pytest.raises(ChatTemplateError) as error:
        read_chat_template(file)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="chat_template"):
        ServeSettings(chat_template=str(file))


def test_the_command_names_the_setting(tmp_path: Path) -> None:
    done = serve("nowhere", "--chat-template", tmp_path / "missing.jinja")  # nor is there such a model
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("unmask serve: --chat-template: ")
    assert "No such file or directory" in done.stderr


def test_it_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_CHAT_TEMPLATE", str(write(tmp_path, TEMPLATE)))
    assert ServeSettings().chat_template == TEMPLATE


@pytest.mark.parametrize(
    "broken",
    [
        "{{ 1 // 0 }}",
        "{{ 2.0 ** 99999 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 3000000000 }}",
        "{{ [1] * 3000000000 }}",
        "{{ 3 ** 3000000000 }}",
        "{{ messages[0].content * 3000000000 }}",
    ],
)
def test_whatever_goes_wrong_in_it_is_said_to_the_client(
    tmp_path: Path, folder: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    with live(folder, chat_template=str(write(tmp_path, broken))) as server:
        answer = server.http.post("/v1/chat/completions", json={"messages": CHAT})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "chat_template")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("constant", ["'x' * 3000000000", "'x' | center(3000000000)", "'%3000000000d' % 1"])
def test_what_is_constant_in_it_is_not_computed_before_it_is_used(constant: str) -> None:
    compile_template("{{ " + constant + " }}{% if " + constant + " %}a{% endif %}{% set b = " + constant + " %}")


@pytest.mark.parametrize("tag", ["{% generation %}a{% endgeneration %}", "{% break %}", "{{ strftime_now('%Y') }}"])
def test_what_templates_of_models_hold_can_be_parsed(tmp_path: Path, tag: str) -> None:
    template = f"{{% for message in messages %}}{tag}{{% endfor %}}"
    assert read_chat_template(write(tmp_path, template)) == template
