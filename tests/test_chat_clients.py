"""Clients that chat, as their users run them: AutoGen, `llm`, llama-index, Anthropic's own and Ollama's own.
`make test-clients` installs them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import check_pears, run, taking_tools, told
from tests.live import ANSWER, QUESTION, Live

pytestmark = pytest.mark.clients

# In each, `told` ends up as what the test looks at.
AUTOGEN = """
import asyncio, json, sys
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import MaxMessageTermination
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core.models import UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

url, question = sys.argv[1:]

class Pears(BaseModel):
    owner: str
    pears: int

async def count(number: int) -> str:
    '''Counts.'''
    return str(number)

able = {"function_calling": True, "json_output": True, "structured_output": True, "vision": False, "family": "unknown"}

def client(**options):
    return OpenAIChatCompletionClient(
        model="llada-nano", base_url=url + "/v1", api_key="none", model_info=able, **options
    )

def said(result):
    return [[message.source, message.content] for message in result.messages]

async def ask():
    default = await AssistantAgent("assistant", client()).run(task=question)
    plain = await AssistantAgent("assistant", client(), system_message=None).run(task=question)
    tooled = await AssistantAgent("assistant", client(), system_message=None, tools=[count]).run(task=question)
    form = await AssistantAgent("assistant", client(max_tokens=160), output_content_type=Pears).run(task=question)
    streaming = AssistantAgent("assistant", client(), system_message=None, model_client_stream=True)
    events = [type(event).__name__ async for event in streaming.run_stream(task=question)]
    both = [AssistantAgent(name, client()) for name in ("first", "second")]
    team = await RoundRobinGroupChat(both, termination_condition=MaxMessageTermination(3)).run(task=question)
    tool = FunctionTool(count, "Counts.")
    called = await client(max_tokens=160).create(
        [UserMessage(content=question, source="user")], tools=[tool], tool_choice="required"
    )
    return {
        "default": said(default),
        "plain": said(plain),
        "tooled": said(tooled),
        "form": form.messages[-1].content.model_dump(),
        "events": events,
        "team": [source for source, _ in said(team)],
        "called": [[call.name, json.loads(call.arguments)] for call in called.content],
        "finished": called.finish_reason,
    }

print(json.dumps(asyncio.run(ask())))
"""
LLAMA_INDEX = """
import json, sys
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

url, question = sys.argv[1:]

class Pears(BaseModel):
    '''Pears.'''
    owner: str
    pears: int

def count(number: int) -> str:
    '''Counts.'''
    return str(number)

server = {"model": "llada-nano", "api_base": url + "/v1", "api_key": "none", "is_chat_model": True}
chat = OpenAILike(**server)
calling = OpenAILike(**server, is_function_calling_model=True, max_tokens=160)
forming = OpenAILike(**server, should_use_structured_outputs=True, max_tokens=160)
messages = [ChatMessage(role="user", content=question)]
tools = [FunctionTool.from_defaults(count)]
called = calling.chat_with_tools(tools, user_msg=question, tool_required=True)
print(json.dumps({
    "chat": chat.chat(messages).message.content,
    "stream": [piece.delta for piece in chat.stream_chat(messages)],
    "complete": chat.complete(question).text,
    "forms": [one.as_structured_llm(Pears).complete(question).raw.model_dump() for one in (calling, forming)],
    "called": [[call.tool_name, call.tool_kwargs] for call in calling.get_tool_calls_from_response(called)],
}))
"""
LLM_MODELS = """
- model_id: nano
  model_name: llada-nano
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
- model_id: nano-text
  model_name: llada-nano
  api_base: {url}/v1
  completion: true
"""
ANTHROPIC = """
import json, sys
import anthropic
from pydantic import BaseModel

url, question = sys.argv[1:]

class Pears(BaseModel):
    owner: str
    pears: int

client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
asked = {"model": "llada-nano", "max_tokens": 64, "messages": [{"role": "user", "content": question}]}
number = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
tools = {"tools": [{"name": "count", "input_schema": number}], "tool_choice": {"type": "any"}}
whole = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    pieces = list(stream.text_stream)
    last = stream.get_final_message()
with client.messages.stream(**asked | {"max_tokens": 160}, **tools) as stream:
    called = stream.get_final_message()
form = client.messages.parse(**asked | {"max_tokens": 160}, output_format=Pears)
stopped = client.messages.create(**asked, stop_sequences=["15"], extra_body={"scheduler": "margin"})
told = {
    "whole": [whole.content[0].text, whole.stop_reason, whole.usage.output_tokens],
    "stream": [pieces, last.content[0].text, last.stop_reason, last.usage.output_tokens],
    "called": [called.stop_reason, called.content[0].name, called.content[0].input],
    "form": form.parsed_output.model_dump(),
    "stopped": [stopped.content[0].text, stopped.stop_sequence, stopped.diffusion["scheduler"]["name"]],
    "counted": client.messages.count_tokens(**{name: asked[name] for name in ("model", "messages")}).input_tokens,
    "input": whole.usage.input_tokens,
}
try:
    client.messages.create(**asked, extra_body={"scheduler": "best"})
except anthropic.BadRequestError as error:
    told["refused"] = str(error)
try:
    list(client.messages.create(**asked, stream=True, extra_body={"timeout": 1e-6}))
except anthropic.APIStatusError as error:
    told["broken"] = str(error)
print(json.dumps(told))
"""
OLLAMA = """
import json, sys
import ollama
from pydantic import BaseModel

url, question = sys.argv[1:]

class Pears(BaseModel):
    owner: str
    pears: int

def count(number: int) -> str:
    '''Counts.

    Args:
        number: how many
    '''
    return str(number)

client = ollama.Client(host=url)
asked = {"model": client.list().models[0].model, "messages": [{"role": "user", "content": question}]}
whole = client.chat(**asked)
pieces = list(client.chat(**asked, stream=True, options={"temperature": 0, "seed": 1, "scheduler": "margin"}))
form = client.chat(**asked, format=Pears.model_json_schema(), options={"num_predict": 160})
tooled = client.chat(**asked, tools=[count])
history = [
    *asked["messages"],
    {"role": "assistant", "tool_calls": [{"function": {"name": "count", "arguments": {"number": 3}}}]},
    {"role": "tool", "tool_name": "count", "content": "3"},
    *asked["messages"],
]
told = {
    "whole": [whole.message.content, whole.done_reason, whole.eval_count],
    "stream": [piece.message.content for piece in pieces],
    "last": [pieces[-1].done, pieces[-1].eval_count],
    "form": json.loads(form.message.content),
    "tooled": tooled.message.content,
    "later": client.chat(**asked | {"messages": history}).done,
    "generated": client.generate(asked["model"], question).response,
    "pieces": [piece.response for piece in client.generate(asked["model"], question, stream=True)],
    "loaded": client.generate(asked["model"]).done_reason,
    "able": client.show("llada-nano").capabilities,
    "running": client.ps().models[0].model,
}
try:
    client.embed(asked["model"], "a")
except ollama.ResponseError as error:
    told["embedded"] = error.error
try:
    client.chat(**asked, options={"scheduler": "best"})
except ollama.ResponseError as error:
    told["refused"] = [error.status_code, error.error]
try:
    list(client.chat(**asked, stream=True, options={"timeout": 1e-6, "num_predict": 400}))
except ollama.ResponseError as error:
    told["broken"] = str(error)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with taking_tools(tmp_path_factory.mktemp("template")) as running:
        yield running


def test_autogen(tmp_path: Path, server: Live) -> None:
    found = told(tmp_path, server, AUTOGEN, "clients-chat")
    assert [source for source, _ in found["default"]] == ["user", "assistant"]
    assert found["plain"][-1] == found["tooled"][-1] == ["assistant", ANSWER]
    check_pears(found["form"])
    assert found["events"].count("ModelClientStreamingChunkEvent") >= 2
    assert found["events"][-1] == "TaskResult"
    assert found["team"] == ["user", "first", "second"]
    ((name, arguments),) = found["called"]
    assert (name, type(arguments["number"]), found["finished"]) == ("count", int, "function_calls")


def test_llama_index(tmp_path: Path, server: Live) -> None:
    found = told(tmp_path, server, LLAMA_INDEX, "clients-llama")
    assert found["chat"] == found["complete"] == "".join(found["stream"]) == ANSWER
    for form in found["forms"]:
        check_pears(form)
    ((name, arguments), *_) = found["called"]
    assert (name, type(arguments["number"])) == ("count", int)


def test_llm(tmp_path: Path, server: Live) -> None:
    (tmp_path / "extra-openai-models.yaml").write_text(LLM_MODELS.format(url=server.url))
    (tmp_path / "count.py").write_text('def count(number: int) -> str:\n    "Counts."\n    return str(number)\n')

    def llm(*arguments: str) -> str:
        command = ["env", "LLM_USER_PATH=.", "llm", *arguments]
        return run(tmp_path, *command, packages="clients-chat", target="test-clients")

    for options in ([], ["--no-stream"], ["-o", "temperature", "0", "-o", "seed", "1"], ["--functions", "count.py"]):
        assert llm("-m", "nano", *options, QUESTION) == f"{ANSWER}\n"
    assert llm("-c", "-s", "Be brief.", QUESTION)  # with the last conversation
    check_pears(json.loads(llm("-m", "nano", "--schema", "owner, pears int", "-o", "max_tokens", "160", QUESTION)))
    llm("-m", "nano-text", "Tom has 1 pears.")
    (logged,) = json.loads(llm("logs", "-n", "1", "--json"))
    assert (logged["model"], logged["prompt"]) == ("nano-text", "Tom has 1 pears.")


def test_anthropic(tmp_path: Path, server: Live) -> None:
    found = told(tmp_path, server, ANTHROPIC, "clients-chat")
    pieces, *last = found["stream"]
    assert found["whole"] == last == [ANSWER, "end_turn", 26]
    assert len(pieces) >= 2
    assert "".join(pieces) == ANSWER
    reason, name, arguments = found["called"]
    assert (reason, name, type(arguments["number"])) == ("tool_use", "count", int)
    check_pears(found["form"])
    assert found["stopped"] == [ANSWER.partition("15")[0], "15", "margin"]
    assert found["counted"] == found["input"]
    assert "unknown scheduler 'best'" in found["refused"]
    assert "was not done within" in found["broken"]


def test_ollama(tmp_path: Path, server: Live) -> None:
    found = told(tmp_path, server, OLLAMA, "clients-chat")
    assert found["whole"] == [ANSWER, "stop", 26]
    assert len(found["stream"]) >= 3
    assert "".join(found["stream"]) == found["tooled"] == ANSWER
    assert found["last"] == [True, 26]
    check_pears(found["form"])
    assert found["later"]
    assert found["generated"] == "".join(found["pieces"]) == ANSWER
    assert (found["loaded"], found["running"]) == ("load", "llada-nano:latest")
    assert "tools" in found["able"]
    assert found["embedded"].startswith("this server has no /api/embed; ")
    status, said = found["refused"]
    assert status == 400
    assert said.startswith("unknown scheduler 'best'")
    assert "was not done within" in found["broken"]
