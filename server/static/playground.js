// The playground. It keeps every step of a run, so that what is shown is always "the canvas after step k".

const $ = (id) => document.getElementById(id);
const EXAMPLES = {
  words: { mode: "messages", max_tokens: 64, block_length: 64, prompt: "Tom has 4 cards. Tom sells 1. Tom finds 3 more. Tom finds 2 more. Tom loses 6. Tom wins 5 more. How many cards does Tom have?" },
  sudoku: { mode: "messages", max_tokens: 48, block_length: 48, prompt: "Sudoku\n _ _ 2 5 1 _\n _ _ _ 2 6 4\n 1 6 5 3 4 _\n _ _ 4 1 _ 6\n _ _ 6 _ 2 _\n _ 2 1 _ 3 5" },
  gaps: { mode: "canvas", block_length: 64, prompt: "Tom has 1 pears. Tom gets 8 more. Tom finds 6 more. Tom gives away 4. Tom gets 9 more. How many pears does Tom have?", canvas: "1 + 8 = 9\n[MASK:5]\n15 - 4 =[MASK]\n[MASK:5]\n#### 20" },
};
const NUMBERS = ["max_tokens", "block_length", "temperature", "seed"];
const FIRST = ["topk", "threshold"]; // what the choosers show at first, where it is installed
const [SURE, LIKELY] = [0.9, 0.6];
const PACE = 125; // milliseconds a step, at least: a small model is done before one has looked
const STILL = matchMedia("(prefers-reduced-motion: reduce)").matches; // then each step is shown as it comes

const state = { schedulers: [], ends: new Set(), mask: "[MASK]", lanes: [], at: 0, playing: false, timer: 0, abort: null, history: [] };

// ---- the server

async function ask(path, options = {}) {
  const headers = { "content-type": "application/json", ...($("key").value && { authorization: `Bearer ${$("key").value}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) $("key-field").hidden = false;
  const body = await response.json().catch(() => null);
  throw body?.error ?? { message: `the server answered ${response.status} ${response.statusText}` };
}
const post = (path, body, signal) => ask(path, { method: "POST", body: JSON.stringify(body), signal });
const json = async (path) => (await ask(path)).json();

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let buffer = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (buffer + value).split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const lines = part.split("\n").filter((line) => !line.startsWith(":")); // a comment keeps the connection alive
      const field = (name) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("data")) yield [field("event"), JSON.parse(field("data"))];
    }
  }
}

async function start() {
  try {
    const [models, schedulers, tokens] = await Promise.all([json("v1/models"), json("v1/schedulers"), json("tokenizer_info")]);
    state.schedulers = schedulers.data;
    state.ends = new Set(tokens.stop_token_ids);
    state.mask = tokens.mask_token;
    const [model] = models.data;
    $("model").textContent = `Served here: ${model.id}, which sees ${model.max_model_len} tokens.`;
    if (!$("choosers").children.length) showChoosers();
  } catch (error) {
    $("model").textContent = `Not ready: ${error.message}. Asking again.`;
    setTimeout(start, 1500);
  }
}

// ---- the form

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function showChoosers() {
  const names = state.schedulers.map((scheduler) => scheduler.name);
  const count = $("compare").checked ? 2 : 1;
  while ($("choosers").children.length > count) $("choosers").lastElementChild.remove();
  for (let i = $("choosers").children.length; i < count; i++) {
    const node = $("chooser").content.cloneNode(true).firstElementChild;
    const select = node.querySelector("select");
    select.append(...names.map((name) => new Option(name)));
    if (names.includes(FIRST[i])) select.value = FIRST[i];
    select.addEventListener("change", () => showOptions(node, `option-${i}`));
    node.querySelector(".error").id = `scheduler-error-${i}`;
    select.setAttribute("aria-describedby", `scheduler-error-${i}`);
    $("choosers").append(node);
    showOptions(node, `option-${i}`);
  }
  [...$("choosers").children].forEach((node, i) => (node.querySelector("legend").textContent = count > 1 ? `Scheduler ${"AB"[i]}` : "Scheduler"));
}

function showOptions(node, prefix) {
  const scheduler = state.schedulers.find(({ name }) => name === node.querySelector("select").value);
  node.querySelector(".about").textContent = scheduler.description;
  node.querySelector(".options").replaceChildren(...Object.entries(scheduler.options.properties).map(([name, schema]) => option(name, schema, `${prefix}-${name}`)));
}

/** A labelled input for one option, drawn from its JSON schema. What is left empty is left to the server. */
function option(name, schema, id) {
  const choices = schema.enum ?? (schema.type === "boolean" ? [true, false] : null);
  const input = choices
    ? element("select", {}, ...choices.map((choice) => new Option(choice, JSON.stringify(choice), choice === schema.default, choice === schema.default)))
    : element("input", { placeholder: schema.default ?? "none", spellcheck: false });
  if (/number|integer/.test(schema.type)) [input.inputMode, input.dataset.number] = ["decimal", ""];
  Object.assign(input, { id, name });
  input.setAttribute("aria-describedby", `${id}-hint ${id.replace(/^option-(\d+).*/, "scheduler-error-$1")}`);
  const range = [schema.minimum != null && `from ${schema.minimum}`, schema.maximum != null && `to ${schema.maximum}`].filter(Boolean).join(" ");
  const hint = [schema.description, range].filter(Boolean).join("; ");
  return element("div", { className: "field" }, element("label", { htmlFor: id, textContent: name }), input, element("p", { className: "hint", id: `${id}-hint`, textContent: hint }));
}

/** What is typed, as a number if it is one: the server has the words for what is not. */
const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));
const value = (input) => (input.tagName === "SELECT" ? JSON.parse(input.value) : "number" in input.dataset ? number(input.value) : input.value);

function scheduler(node) {
  const options = [...node.querySelectorAll(".options [name]")].filter((input) => input.value !== "");
  return { name: node.querySelector("select").value, ...Object.fromEntries(options.map((input) => [input.name, value(input)])) };
}

const mode = () => $("form").elements.mode.value;

function request() {
  const numbers = NUMBERS.filter((name) => $(name).value !== "" && !(name === "max_tokens" && mode() === "canvas"));
  const body = { stream: true, ...Object.fromEntries(numbers.map((name) => [name, number($(name).value)])) };
  const prompt = $("prompt").value;
  if (mode() === "canvas") body.canvas = $("canvas").value;
  if (mode() === "prompt") body.prompt = prompt;
  else if (prompt || mode() === "messages") body.messages = [...(mode() === "messages" ? state.history : []), { role: "user", content: prompt }];
  return body;
}

function setMode(name) {
  $("form").elements.mode.value = name;
  $("prompt-label").textContent = { messages: "Your message", prompt: "Text to go on from", canvas: "What the text answers (may be empty)" }[name];
  $("canvas-field").hidden = name !== "canvas";
  $("max_tokens").closest(".field").hidden = name === "canvas"; // the gaps say it
  $("history").hidden = name !== "messages" || !state.history.length;
}

function fill({ mode: name, ...fields }) {
  remember([]);
  setMode(name);
  for (const [id, text] of Object.entries(fields)) $(id).value = text;
}

/** Turn the selection into a gap of as many tokens; the space in front goes with it, as it belongs to the token. */
async function makeGap() {
  const area = $("canvas");
  let { selectionStart: from, selectionEnd: to } = area;
  if (from < to && area.value[from - 1] === " " && area.value[from] !== " ") from--;
  try {
    const prompt = area.value.slice(from, to);
    const { count } = prompt ? await (await post("tokenize", { prompt })).json() : { count: 1 };
    area.setRangeText(count === 1 ? "[MASK]" : `[MASK:${count}]`, from, to, "end");
    area.focus();
  } catch (error) {
    showError(error);
  }
}

function remember(messages) {
  state.history = messages;
  $("history").hidden = !messages.length;
  $("history").firstElementChild.replaceChildren(...messages.map(({ role, content }) => element("li", {}, element("b", { textContent: role }), ` ${content}`)));
}

/** The server's words, beside what caused them. */
function showError({ message, param }, chooser) {
  const field = String(param ?? "").split(/[.[]/)[0];
  const places = [...(chooser?.querySelectorAll("[data-error]") ?? []), ...document.querySelectorAll("[data-error]")];
  const place = (field && places.find((node) => node.dataset.error.split(" ").includes(field) && !node.closest("[hidden]"))) || $("form-error");
  place.textContent = message;
  const inputs = [...document.querySelectorAll(`[aria-describedby~="${place.id}"]`)];
  for (const input of inputs.length > 1 ? inputs.filter(({ id, name }) => id === field || (name && message.includes(`option '${name}'`))) : inputs) input.setAttribute("aria-invalid", "true");
}

function clearErrors() {
  for (const node of document.querySelectorAll(".error")) node.textContent = "";
  for (const node of document.querySelectorAll("[aria-invalid]")) node.removeAttribute("aria-invalid");
}

// ---- a run

async function run() {
  state.abort?.abort();
  const abort = (state.abort = new AbortController());
  clearErrors();
  const body = request();
  const choosers = [...$("choosers").children];
  state.lanes = choosers.map((chooser) => ({ chooser, spec: scheduler(chooser), body, steps: [], cells: [], ...laneNodes() }));
  $("lanes").replaceChildren(...state.lanes.map((lane) => lane.root));
  [$("stop").disabled, $("reply").hidden, $("given").hidden, $("announcement").textContent] = [false, true, !body.canvas, ""];
  if (matchMedia("(max-width: 60rem)").matches) $("results").scrollIntoView();
  show(0);
  play(true);
  await Promise.all(state.lanes.map((lane) => follow(lane, { ...body, scheduler: lane.spec }, abort.signal)));
  if (state.abort !== abort) return; // another run has begun
  [state.abort, $("stop").disabled] = [null, true];
  $("reply").hidden = body.prompt !== undefined || body.canvas !== undefined || !state.lanes[0].done;
  $("announcement").textContent = state.lanes.filter((lane) => lane.done).map((lane) => `${lane.spec.name} finished: ${text(lane)}`).join(". ");
  if (!state.playing) show(state.at); // with the server's figures
}

/** The text that a run has made; of gaps, with what stood around them. */
const text = (lane) => lane.done.canvas ?? lane.done.text;

function laneNodes() {
  const root = $("lane").content.cloneNode(true).firstElementChild;
  const [title, status, canvas, figures, rows] = ["h2", ".state", ".canvas", "dl", "tbody"].map((one) => root.querySelector(one));
  return { root, title, status, canvas, figures, rows };
}

async function follow(lane, body, signal) {
  const began = performance.now();
  lane.title.textContent = lane.spec.name;
  lane.canvas.setAttribute("aria-label", `Canvas of ${lane.spec.name}`);
  lane.status.textContent = "waiting …";
  try {
    for await (const [name, data] of events(await post("generate", body, signal))) {
      if (name === "start") begin(lane, data);
      if (name === "step") lane.steps.push({ ...data, seconds: (performance.now() - began) / 1000 });
      if (name === "done") lane.done = data;
      if (name === "error") throw data;
      if (name === "step") extend();
    }
    if (!lane.done) throw { message: "the connection ended before the answer did" };
    lane.status.textContent = lane.done.finish_reason === "stop" ? "ended by itself" : "ended at its full length";
  } catch (error) {
    lane.status.textContent = signal.aborted ? "stopped by you" : `failed: ${error.message}`;
    if (!signal.aborted) showError(error, lane.chooser);
  }
}

/** Draw the empty canvas, with the text around the gaps if there is one. */
function begin(lane, data) {
  lane.start = data;
  lane.status.textContent = "running …";
  lane.cells = Array.from({ length: data.length }, () => element("span"));
  const escaped = state.mask.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const around = (lane.body.canvas ?? "").split(new RegExp(String.raw`\[MASK(?::\d+)?\]|${escaped}`));
  lane.canvas.replaceChildren(element("span", { className: "token pinned", textContent: around[0] }), ...lane.cells, element("span", { className: "token pinned", textContent: around.length > 1 ? around.at(-1) : "" }));
  show(state.at);
}

const longest = () => Math.max(0, ...state.lanes.map((lane) => lane.steps.length));

function extend() {
  [$("scrubber").max, $("scrubber").disabled, $("play").disabled] = [longest(), false, false];
  describe();
}

// ---- showing the canvas after a step

function show(at) {
  state.at = Math.min(at, longest());
  for (const lane of state.lanes) if (lane.start) draw(lane, Math.min(state.at, lane.steps.length));
  describe();
}

function describe() {
  const words = `${state.at} of ${longest()}`;
  [$("scrubber").value, $("position").textContent] = [state.at, words];
  $("scrubber").setAttribute("aria-valuetext", `step ${words}`);
}

/** What stands at each position after k steps; nothing where there is a mask. */
function canvasAfter(lane, k) {
  const canvas = Array(lane.start.length).fill(null);
  for (const [position, id, text] of lane.start.pinned ?? []) canvas[position] = { id, text };
  for (const { step, revealed, remasked } of lane.steps.slice(0, k)) {
    for (const position of remasked) canvas[position] = null;
    for (const [position, id, text, probability] of revealed) canvas[position] = { id, text, probability, step };
  }
  return canvas;
}

function draw(lane, k) {
  const canvas = canvasAfter(lane, k);
  const cells = canvas.map((token) => look(token, k, lane.steps.length));
  cells.forEach((cell, i) => {
    const span = lane.cells[i];
    if (span.className === cell.className && span.textContent === cell.text && span.title === cell.title) return;
    Object.assign(span, { className: cell.className, textContent: cell.text, title: cell.title });
    span.style.setProperty("--t", cell.t);
    span.dataset.step = cell.step;
  });
  const finished = lane.done && k === lane.steps.length;
  lane.canvas.classList.toggle("finished", Boolean(finished));
  figures(lane, canvas.filter((token) => token?.step !== undefined && !state.ends.has(token.id)).length, k, finished);
  if (finished) tokens(lane, canvas);
}

function look(token, k, steps) {
  if (!token) return { className: "mask", text: "", title: "mask", t: 0, step: "" };
  if (state.ends.has(token.id)) return { className: "end", text: "·", title: token.text, t: 0, step: "" };
  if (token.step === undefined) return { className: "token pinned", text: token.text, title: "given", t: 0, step: "" };
  const level = token.probability >= SURE ? "sure" : token.probability >= LIKELY ? "likely" : "unsure";
  const title = `step ${token.step + 1}, confidence ${token.probability.toFixed(3)}`;
  const className = ["token", level, token.step === k - 1 && "fresh", token.text.includes("\n") && "newline"].filter(Boolean).join(" ");
  return { className, text: token.text, title, t: steps > 1 ? token.step / (steps - 1) : 0, step: token.step + 1 };
}

/** Counted here while it runs; at the end what the server says in `diffusion`. */
function figures(lane, revealed, k, finished) {
  const seconds = k ? lane.steps[k - 1].seconds : 0;
  const live = { forward_passes: k, tokens_per_step: k ? revealed / k : 0, tokens_per_second: seconds ? revealed / seconds : 0, generate_seconds: seconds };
  const { forward_passes, tokens_per_step, tokens_per_second, generate_seconds, queue_seconds, block_length, cache, scheduler } = finished ? lane.done.diffusion : live;
  const shown = { "forward passes": forward_passes, "tokens a pass": tokens_per_step.toFixed(1), "tokens a second": Math.round(tokens_per_second), seconds: generate_seconds.toFixed(3) };
  if (finished) {
    const options = Object.entries(scheduler).filter(([name, value]) => name !== "name" && value !== null);
    Object.assign(shown, { options: options.map(([name, value]) => `${name} ${value}`).join(", ") || "none", block: block_length, cache, queued: `${queue_seconds.toFixed(3)} s` });
  }
  lane.figures.replaceChildren(...Object.entries(shown).map(([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }))));
}

function tokens(lane, canvas) {
  const cell = (text) => element("td", { textContent: text });
  const row = (token, i) => element("tr", {}, cell(i), cell(JSON.stringify(token.text)), cell(token.step === undefined ? "given" : token.step + 1), cell(token.probability?.toFixed(3) ?? ""));
  lane.rows.replaceChildren(...canvas.flatMap((token, i) => (token ? [row(token, i)] : [])));
}

function play(on) {
  clearTimeout(state.timer);
  state.playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  if (on) state.timer = setTimeout(tick, STILL ? 0 : PACE);
}

function tick() {
  show(STILL ? longest() : state.at + 1);
  play(Boolean(state.abort) || state.at < longest());
}

// ---- what the visitor does

function stop() {
  state.abort?.abort();
}

$("form").addEventListener("submit", (event) => (event.preventDefault(), run()));
$("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
$("stop").addEventListener("click", stop);
$("gap").addEventListener("click", makeGap);
$("compare").addEventListener("change", showChoosers);
$("forget").addEventListener("click", () => (remember([]), $("prompt").focus()));
$("reply").addEventListener("click", () => {
  const [lane] = state.lanes;
  remember([...lane.body.messages, { role: "assistant", content: lane.done.text }]);
  [$("prompt").value, $("reply").hidden] = ["", true];
  $("prompt").focus();
});
$("play").addEventListener("click", () => {
  if (!state.playing && state.at === longest()) show(0);
  play(!state.playing);
});
$("scrubber").addEventListener("input", () => (play(false), show(Number($("scrubber").value))));
for (const radio of document.querySelectorAll("[name=mode]")) radio.addEventListener("change", () => setMode(radio.value));
for (const radio of document.querySelectorAll("[name=colour]")) radio.addEventListener("change", () => ($("results").dataset.colour = radio.value));
for (const button of document.querySelectorAll("[data-example]")) button.addEventListener("click", () => fill(EXAMPLES[button.dataset.example]));

$("results").dataset.colour = "confidence";
fill(EXAMPLES.words);
start();
