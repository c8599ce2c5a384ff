"""Clients that ask for tools, forms and `/v1/responses` by default, as their users run them: `make test-clients`."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import FOLDERS, check_pears, run, taking_tools, told
from tests.live import ANSWER, QUESTION, Live

pytestmark = pytest.mark.clients

# In each, `told` ends up as what the test looks at.
AGENTS = """
import asyncio, json, sys
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from agents import set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

url, question = sys.argv[1:]
set_tracing_disabled(True)

class Pears(BaseModel):
    owner: str
    pears: int

called = []

@function_tool
def count(number: int) -> str:
    '''Counts.'''
    called.append(number)
    return str(number)

async def ask(kind):
    model = kind("llada-nano", AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0))
    must = {"model": model, "model_settings": ModelSettings(tool_choice="required", max_tokens=160)}
    text = await Runner.run(Agent("text", model=model), question)
    free = await Runner.run(Agent("free", model=model, tools=[count]), question)
    form = await Runner.run(Agent("form", model=model, output_type=Pears), question)
    both = await Runner.run(Agent("both", model=model, tools=[count], output_type=Pears), question)
    tool = await Runner.run(Agent("tool", tools=[count], **must), question)
    other = Agent("other", model=model)
    handed = await Runner.run(Agent("first", handoffs=[other], **must), question)
    streamed = Runner.run_streamed(Agent("streamed", tools=[count], **must), question)
    events = [event.type async for event in streamed.stream_events()]
    return {
        "text": text.final_output,
        "free": free.final_output,
        "forms": [form.final_output.model_dump(), both.final_output.model_dump()],
        "items": [item.type for item in tool.new_items],
        "handed": handed.last_agent.name,
        "events": sorted(set(events)),
    }

told = {kind.__name__: asyncio.run(ask(kind)) for kind in (OpenAIResponsesModel, OpenAIChatCompletionsModel)}
print(json.dumps(told | {"called": called}))
"""
PYDANTIC_AI = """
import json, sys
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

url, question = sys.argv[1:]

class Pears(BaseModel):
    owner: str
    pears: int

class Anything(BaseModel, extra="allow"):
    pass

told = {}
for kind in (OpenAIChatModel, OpenAIResponsesModel):
    model = kind("llada-nano", provider=OpenAIProvider(base_url=url + "/v1", api_key="none"))
    room = {"max_tokens": 160}
    ask = lambda output: Agent(model, output_type=output, retries=0, model_settings=room).run_sync(question).output
    told[kind.__name__] = {
        "text": Agent(model).run_sync(question).output,
        "forms": [ask(output).model_dump() for output in (Pears, ToolOutput(Pears), NativeOutput(Pears))],
        "prompted": isinstance(ask(PromptedOutput(Anything)), Anything),  # any JSON object
    }
print(json.dumps(told))
"""
INSTRUCTOR = """
import json, sys
import instructor, openai
from instructor import Mode
from pydantic import BaseModel

url, question = sys.argv[1:]

class Pears(BaseModel):
    owner: str
    pears: int

class Anything(BaseModel, extra="allow"):
    pass

told = {}
for mode in (
    Mode.TOOLS, Mode.TOOLS_STRICT, Mode.FUNCTIONS, Mode.JSON, Mode.JSON_SCHEMA, Mode.JSON_O1, Mode.RESPONSES_TOOLS,
    Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS,
):
    client = instructor.from_openai(openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0), mode=mode)
    length = {"max_output_tokens" if "RESPONSES" in mode.name else "max_tokens": 160}
    wanted = Anything if mode == Mode.JSON else Pears
    asked = {"model": "llada-nano", "messages": [{"role": "user", "content": question}], "max_retries": 0}
    told[mode.name] = client.create(response_model=wanted, **asked, **length).model_dump()
print(json.dumps(told))
"""
NODE = """
import OpenAI from 'openai';
import { zodTextFormat } from 'openai/helpers/zod';
import { generateObject, generateText, Output, streamText, tool } from 'ai';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { z } from 'zod';

const [url, question] = process.argv.slice(2);
const base = { baseURL: url + '/v1', apiKey: 'none' };
const model = 'llada-nano';
const schema = z.object({ owner: z.string(), pears: z.number().int() });
const count = { type: 'object', properties: { number: { type: 'integer' } }, required: ['number'] };
const told = {};

const client = new OpenAI({ ...base, maxRetries: 0 });
const response = await client.responses.create({ model, input: question });
const form = { format: zodTextFormat(schema, 'pears') };
const parsed = await client.responses.parse({ model, input: question, text: form });
const events = [];
for await (const event of client.responses.stream({ model, input: question })) events.push(event.type);
const called = await client.chat.completions.create({
  model, messages: [{ role: 'user', content: question }], tool_choice: 'required', max_tokens: 160,
  tools: [{ type: 'function', function: { name: 'count', parameters: count } }],
});
const call = called.choices[0].message.tool_calls[0];
const number = JSON.parse(call.function.arguments);
told.openai = { text: response.output_text, form: parsed.output_parsed, events: events.at(-1), called: number };

for (const [name, languageModel] of [
  ['responses', createOpenAI(base)(model)],
  ['chat', createOpenAI(base).chat(model)],
  ['compatible', createOpenAICompatible({ name: 'unmask', ...base, supportsStructuredOutputs: true })(model)],
]) {
  const ask = { model: languageModel, prompt: question, maxRetries: 0 };
  const { text } = await generateText(ask);
  const { object } = await generateObject({ ...ask, schema });
  const { output } = await generateText({ ...ask, output: Output.object({ schema }) });
  const stream = streamText(ask);
  let streamed = '';
  for await (const piece of stream.textStream) streamed += piece;
  const tools = { count: tool({ description: 'Counts.', inputSchema: z.object({ number: z.number().int() }) }) };
  const { toolCalls } = await generateText({ ...ask, tools, toolChoice: 'required', maxOutputTokens: 160 });
  told[name] = { text, streamed, forms: [object, output], called: toolCalls[0].input };
}
console.log(JSON.stringify(told));
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with taking_tools(tmp_path_factory.mktemp("template")) as running:
        yield running


def test_openai_agents(tmp_path: Path, server: Live) -> None:
    found = told(tmp_path, server, AGENTS, "clients-agents")
    for kind in ("OpenAIResponsesModel", "OpenAIChatCompletionsModel"):
        said = found[kind]
        assert said["text"] == said["free"] == ANSWER
        for form in said["forms"]:
            check_pears(form)
        assert said["items"][:2] == ["tool_call_item", "tool_call_output_item"]
        assert said["handed"] == "other"
        assert "raw_response_event" in said["events"]
    assert found["called"]
    assert all(isinstance(number, int) for number in found["called"])


def test_pydantic_ai(tmp_path: Path, server: Live) -> None:
    found = told(tmp_path, server, PYDANTIC_AI, "clients-agents")
    for said in found.values():
        assert said["text"] == ANSWER
        assert said["prompted"]
        for form in said["forms"]:
            check_pears(form)


def test_instructor(tmp_path: Path, server: Live) -> None:
    found = told(tmp_path, server, INSTRUCTOR, "clients-instructor")
    assert len(found) == 8
    for mode, form in found.items():
        if mode != "JSON":  # which asks for any JSON object
            check_pears(form)


def test_openai_node_and_the_ai_sdk(tmp_path: Path, server: Live) -> None:
    (tmp_path / "node_modules").symlink_to(FOLDERS / "clients-node" / "node_modules")
    (tmp_path / "ask.mjs").write_text(NODE)
    command = ["node", "ask.mjs", server.url, QUESTION]
    found = json.loads(run(tmp_path, *command, packages="clients-node", target="test-clients"))
    openai = found.pop("openai")
    assert (openai["text"], openai["events"]) == (ANSWER, "response.completed")
    check_pears(openai["form"])
    assert type(openai["called"]["number"]) is int
    assert set(found) == {"responses", "chat", "compatible"}
    for said in found.values():
        assert said["text"] == said["streamed"] == ANSWER
        for form in said["forms"]:
            check_pears(form)
        assert type(said["called"]["number"]) is int
