"""What stands between users and the server: LiteLLM's proxy, and promptfoo's evaluations. `make test-clients` installs
both."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.clients import FOLDERS, check_pears, run, surroundings, taking_tools
from tests.live import ANSWER, PATIENCE, QUESTION, Live, wait_for

pytestmark = pytest.mark.clients

KEY = "sk-of-a-test-0123456789abcdef0123456789abcdef"  # the proxy refuses to start with a short one
MODELS = {"chat": "openai", "hosted": "hosted_vllm", "text": "text-completion-openai"}
MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
PEARS = {
    "type": "object",
    "properties": {"owner": {"type": "string"}, "pears": {"type": "integer"}},
    "required": ["owner", "pears"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with taking_tools(tmp_path_factory.mktemp("template")) as running:
        yield running


@contextmanager
def proxied(folder: Path, server: Live) -> Iterator[str]:
    """The address of LiteLLM's proxy before a server."""
    target = {"api_base": f"{server.url}/v1", "api_key": "none"}
    models = [
        {"model_name": name, "litellm_params": {"model": f"{provider}/llada-nano", **target}}
        for name, provider in MODELS.items()
    ]
    (folder / "config.yaml").write_text(json.dumps({"model_list": models}))  # YAML reads JSON
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    where = surroundings(folder, "clients-proxy", "test-clients")
    command = [sys.executable, str(FOLDERS / "clients-proxy" / "bin" / "litellm"), "--config", "config.yaml"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port],
            cwd=folder,
            env={**where, "LITELLM_MASTER_KEY": KEY},
            stdout=log,
            stderr=log,
        ) as proxy,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: proxy.poll() is not None or answers(f"{url}/health/liveliness"))
            assert proxy.poll() is None, (folder / "log").read_text()[-5000:]
            yield url
        finally:
            proxy.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def test_litellms_proxy(tmp_path: Path, server: Live) -> None:
    with (
        proxied(tmp_path, server) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=PATIENCE) as client,
    ):
        chat = client.chat.completions
        for model in ("chat", "hosted"):
            whole = chat.create(model=model, messages=MESSAGES, extra_body={"scheduler": "margin"})
            assert whole.choices[0].message.content == ANSWER
            assert whole.model_extra is not None
            assert whole.model_extra["diffusion"]["scheduler"]["name"] == "margin"
            chunks = list(chat.create(model=model, messages=MESSAGES, stream=True))
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER
        written = client.completions.create(model="text", prompt=f"{QUESTION}\n\n", max_tokens=11)
        assert written.choices[0].text == ANSWER[:20]
        assert client.responses.create(model="chat", input=QUESTION).output_text == ANSWER
        events = [event.type for event in client.responses.create(model="chat", input=QUESTION, stream=True)]
        assert events[-1] == "response.completed"
        asked = {"model": "chat", "max_tokens": 64, "messages": MESSAGES}
        message = httpx.post(f"{url}/v1/messages", json=asked, headers={"x-api-key": KEY}, timeout=PATIENCE).json()
        assert (message["content"][0]["text"], message["stop_reason"]) == (ANSWER, "end_turn")
        form = chat.create(
            model="chat",
            messages=MESSAGES,
            max_tokens=160,
            response_format={"type": "json_schema", "json_schema": {"name": "pears", "schema": PEARS}},
        )
        check_pears(json.loads(form.choices[0].message.content or ""))
        called: Any = chat.create(
            model="chat",
            messages=MESSAGES,
            max_tokens=160,
            tools=[{"type": "function", "function": {"name": "count", "parameters": PEARS}}],
            tool_choice="required",
        )
        call = called.choices[0].message.tool_calls[0]
        check_pears(json.loads(call.function.arguments))
        check_that_refusals_close_nothing(client)


def check_that_refusals_close_nothing(client: openai.OpenAI) -> None:
    """The proxy sends nobody to a server for a while after some errors; ours are others."""
    with pytest.raises(openai.BadRequestError, match="ContextWindowExceededError"):
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": "a b " * 600}])
    with pytest.raises(openai.BadRequestError, match="embeds none"):
        client.embeddings.create(model="chat", input="a")
    again = client.chat.completions.create(model="chat", messages=MESSAGES)
    assert again.choices[0].message.content == ANSWER


@pytest.mark.parametrize(
    ("provider", "options", "passes"),
    [
        ("openai:chat", {}, None),  # asks for 1024 tokens; the embedded model was not taught to use so much room
        ("openai:chat", {"max_tokens": 64, "passthrough": {"scheduler": "margin"}}, True),
        ("openai:completion", {"max_tokens": 64}, None),  # writes on, without the template
    ],
)
def test_promptfoo(
    tmp_path: Path, server: Live, provider: str, options: dict[str, object], passes: bool | None
) -> None:
    config = {
        "prompts": [QUESTION],
        "providers": [
            {"id": f"{provider}:llada-nano", "config": {"apiBaseUrl": f"{server.url}/v1", "apiKey": "none", **options}}
        ],
        "tests": [{"assert": [{"type": "contains", "value": "#### 20"}]}],
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    program = FOLDERS / "clients-promptfoo" / "node_modules" / ".bin" / "promptfoo"
    quiet = ("PROMPTFOO_DISABLE_TELEMETRY=1", "PROMPTFOO_DISABLE_UPDATE=1", "PROMPTFOO_CONFIG_DIR=.")
    codes = ("PROMPTFOO_FAILED_TEST_EXIT_CODE=0",)  # the counts tell
    command = ["env", *quiet, *codes, str(program), "eval", "-c", "config.yaml", "--no-cache", "-o", "out.json"]
    run(tmp_path, *command, packages="clients-promptfoo", target="test-clients")
    counts = json.loads((tmp_path / "out.json").read_text())["results"]["stats"]
    assert (counts["successes"] + counts["failures"], counts["errors"]) == (1, 0)
    assert passes in (None, bool(counts["successes"]))
