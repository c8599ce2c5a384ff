// The playground. It keeps every step of a run, so that what is shown is always "the canvas after step k".

const $ = (id) => document.getElementById(id);
const EXAMPLES = {
  words: { mode: "messages", max_tokens: 64, block_length: 64, prompt: "Tom has 4 cards. Tom sells 1. Tom finds 3 more. Tom finds 2 more. Tom loses 6. Tom wins 5 more. How many cards does Tom have?" },
  sudoku: { mode: "messages", max_tokens: 48, block_length: 48, prompt: "Sudoku\n _ _ 2 5 1 _\n _ _ _ 2 6 4\n 1 6 5 3 4 _\n _ _ 4 1 _ 6\n _ _ 6 _ 2 _\n _ 2 1 _ 3 5" },
  gaps: { mode: "canvas", block_length: 64, prompt: "Tom has 1 pears. Tom gets 8 more. Tom finds 6 more. Tom gives away 4. Tom gets 9 more. How many pears does Tom have?", canvas: "1 + 8 = 9\n[MASK:5]\n15 - 4 =[MASK]\n[MASK:5]\n#### 20" },
};
const LABELS = { messages: "Your message", prompt: "Text to go on from", canvas: "What the text answers (may be empty)" };
const FIRST = ["topk", "threshold"]; // what the choosers show at first, where it is installed
const [SURE, LIKELY] = [0.9, 0.6];
const PACE = 125; // milliseconds a step, at least: a small model is done before one has looked
const STILL = matchMedia("(prefers-reduced-motion: reduce)").matches; // then each step is shown as it comes

const state = { schedulers: [], ends: new Set(), mask: "[MASK]", lanes: [], at: 0, playing: false, timer: 0, retry: 0, abort: null, history: [] };

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}
const copy = (template) => $(template).content.cloneNode(true).firstElementChild;

// ---- the server

async function ask(path, options = {}) {
  const headers = { "content-type": "application/json" };
  const key = String.fromCharCode(...new TextEncoder().encode($("key").value)); // a header holds bytes
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  const error = body?.error ?? { message: `the server answered ${response.status} ${response.statusText}` };
  if (response.status !== 401) throw error;
  $("key-field").hidden = false;
  throw { ...error, param: "key" };
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
      const found = part.match(/^event: ([^\n]*)\ndata: ([^\n]*)/); // what is not is a comment, which keeps the connection alive
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}

/** Ask what is served, again and again until the model is loaded; where a key is wanted, when one has been typed. */
async function start() {
  clearTimeout(state.retry);
  clearErrors();
  try {
    const [models, schedulers, tokens] = await Promise.all([json("v1/models"), json("v1/schedulers"), json("tokenizer_info")]);
    const [model] = models.data;
    Object.assign(state, { schedulers: schedulers.data, ends: new Set(tokens.stop_token_ids), mask: tokens.mask_token });
    $("model").textContent = `Served here: ${model.id}, which sees ${model.max_model_len} tokens.`;
    if (!$("choosers").children.length) $("choosers").append(...FIRST.map(chooser));
    compare();
    $("run").disabled = false;
  } catch (error) {
    const locked = error.param === "key";
    $("model").textContent = `Not ready: ${error.message}.${locked ? "" : " Asking again."}`;
    if (!locked) state.retry = setTimeout(start, 1500);
    else if ($("key").value) showError(error);
  }
}

// ---- the form

function chooser(first, i) {
  const node = copy("chooser");
  const select = node.querySelector("select");
  const names = state.schedulers.map(({ name }) => name);
  select.append(...names.map((name) => new Option(name)));
  if (names.includes(first)) select.value = first;
  node.querySelector(".error").id = `scheduler-error-${i}`;
  select.setAttribute("aria-describedby", `scheduler-error-${i}`);
  const showOptions = () => {
    const { description, options } = state.schedulers.find(({ name }) => name === select.value);
    node.querySelector(".about").textContent = description;
    node.querySelector(".options").replaceChildren(...Object.entries(options.properties).map(([name, schema]) => option(name, schema, i)));
  };
  select.addEventListener("change", showOptions);
  showOptions();
  return node;
}

function compare() {
  const two = $("compare").checked;
  [...$("choosers").children].forEach((node, i) => {
    node.hidden = i > 0 && !two;
    node.querySelector("legend").textContent = two ? `Scheduler ${"AB"[i]}` : "Scheduler";
  });
}

/** A labelled input for one option, drawn from its JSON schema. What is left empty is left to the server. */
function option(name, schema, i) {
  const id = `option-${i}-${name}`;
  const choices = schema.enum ?? (schema.type === "boolean" ? [true, false] : null);
  const choice = (one) => new Option(one, JSON.stringify(one), one === schema.default, one === schema.default);
  const input = choices ? element("select", {}, ...choices.map(choice)) : element("input", { placeholder: schema.default ?? "none", spellcheck: false });
  if (/number|integer/.test(schema.type)) [input.inputMode, input.dataset.number] = ["decimal", ""];
  Object.assign(input, { id, name });
  input.setAttribute("aria-describedby", `${id}-hint scheduler-error-${i}`);
  const range = [schema.minimum != null && `from ${schema.minimum}`, schema.maximum != null && `to ${schema.maximum}`].filter(Boolean).join(" ");
  const hint = element("p", { className: "hint", id: `${id}-hint`, textContent: [schema.description, range].filter(Boolean).join("; ") });
  return element("div", { className: "field" }, element("label", { htmlFor: id, textContent: name }), input, hint);
}

/** What is typed, as a number if it is one: the server has the words for what is not. */
const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));
const value = (input) => (input.tagName === "SELECT" ? JSON.parse(input.value) : "number" in input.dataset ? number(input.value) : input.value);

function scheduler(node) {
  const options = [...node.querySelectorAll(".options [name]")].filter((input) => input.value !== "");
  return { name: node.querySelector("select").value, ...Object.fromEntries(options.map((input) => [input.name, value(input)])) };
}

function request() {
  const mode = $("form").elements.mode.value;
  const prompt = $("prompt").value;
  const numbers = [...document.querySelectorAll("#numbers .field:not([hidden]) input")].filter((input) => input.value !== "");
  const body = { stream: true, ...Object.fromEntries(numbers.map((input) => [input.id, number(input.value)])) };
  if (mode === "canvas") body.canvas = $("canvas").value;
  if (mode === "prompt") body.prompt = prompt;
  else if (prompt || mode === "messages") body.messages = [...(mode === "messages" ? state.history : []), { role: "user", content: prompt }];
  return body;
}

function setMode(mode) {
  $("form").elements.mode.value = mode;
  $("prompt-label").textContent = LABELS[mode];
  $("canvas-field").hidden = mode !== "canvas";
  $("max_tokens").closest(".field").hidden = mode === "canvas"; // the gaps say it
  $("history").hidden = mode !== "messages" || !state.history.length;
}

function fill({ mode, ...fields }) {
  remember([]);
  setMode(mode);
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
  const owner = `[data-error~="${CSS.escape(field)}"]`;
  const place = chooser?.querySelector(owner) ?? document.querySelector(owner) ?? $("form-error");
  place.textContent = message;
  const inputs = [...document.querySelectorAll(`[aria-describedby~="${place.id}"]`)];
  const isCause = ({ id, name }) => inputs.length === 1 || id === field || (name && message.includes(`option '${name}'`));
  for (const input of inputs.filter(isCause)) input.setAttribute("aria-invalid", "true");
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
  state.lanes = [...document.querySelectorAll("#choosers > :not([hidden])")].map((chooser) => lane(chooser, body));
  $("lanes").replaceChildren(...state.lanes.map(({ node }) => node));
  $("stop").disabled = false;
  $("reply").hidden = true;
  $("given").hidden = !body.canvas;
  $("announcement").textContent = "";
  if (matchMedia("(max-width: 60rem)").matches) $("results").scrollIntoView();
  show(0);
  play(true);
  await Promise.all(state.lanes.map((lane) => follow(lane, abort.signal)));
  if (state.abort !== abort) return; // another run has begun
  state.abort = null;
  $("stop").disabled = true;
  $("reply").hidden = !body.messages || Boolean(body.canvas) || !state.lanes[0].done;
  $("announcement").textContent = state.lanes.filter(({ done }) => done).map(({ name, done }) => `${name} finished: ${done.canvas ?? done.text}`).join(". ");
  if (!state.playing) show(state.at); // with the server's figures
}

/** One scheduler's part of a run: what it asks, where it is shown, and the steps so far. */
function lane(chooser, request) {
  const body = { ...request, scheduler: scheduler(chooser) };
  const { name } = body.scheduler;
  const node = copy("lane");
  const [canvas, status] = [node.querySelector(".canvas"), node.querySelector(".state")];
  node.querySelector("h2").textContent = name;
  canvas.setAttribute("aria-label", `Canvas of ${name}`);
  status.textContent = "waiting …";
  return { chooser, body, name, node, canvas, status, steps: [] };
}

async function follow(lane, signal) {
  const began = performance.now();
  try {
    for await (const [name, data] of events(await post("generate", lane.body, signal))) {
      if (name === "start") {
        lane.start = data;
        lane.status.textContent = "running …";
        show(state.at);
      } else if (name === "step") {
        lane.steps.push({ ...data, seconds: (performance.now() - began) / 1000 });
        $("scrubber").disabled = $("play").disabled = false;
        describe();
      } else if (name === "done") lane.done = data;
      else if (name === "error") throw data;
    }
    if (!lane.done) throw { message: "the connection ended before the answer did" };
    lane.status.textContent = lane.done.finish_reason === "stop" ? "ended by itself" : "ended at its full length";
  } catch (error) {
    lane.status.textContent = signal.aborted ? "stopped by you" : `failed: ${error.message}`;
    if (!signal.aborted) showError(error, lane.chooser);
  }
}

// ---- showing the canvas after a step

const longest = () => Math.max(0, ...state.lanes.map((lane) => lane.steps.length));

function show(at) {
  state.at = Math.min(at, longest());
  for (const lane of state.lanes) if (lane.start) draw(lane, Math.min(state.at, lane.steps.length));
  describe();
}

function describe() {
  const words = `${state.at} of ${longest()}`;
  Object.assign($("scrubber"), { max: longest(), value: state.at });
  $("scrubber").setAttribute("aria-valuetext", `step ${words}`);
  $("position").textContent = words;
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
  const [before, ...others] = (lane.body.canvas ?? "").replaceAll(state.mask, "[MASK]").split(/\[MASK(?::\d+)?\]/);
  const shown = [{ text: before }, ...canvas, { text: others.at(-1) ?? "" }]; // around the region stands what is given
  lane.canvas.replaceChildren(...shown.map((token) => cell(token, k, lane.steps.length)));
  const finished = Boolean(lane.done) && k === lane.steps.length;
  lane.canvas.classList.toggle("finished", finished);
  figures(lane, canvas.filter((token) => token?.step !== undefined && !state.ends.has(token.id)).length, k, finished);
  if (finished) tokens(lane, canvas);
}

function cell(token, k, steps) {
  if (!token) return element("span", { className: "mask", title: "mask" });
  if (state.ends.has(token.id)) return element("span", { className: "end", textContent: "·", title: token.text });
  if (token.step === undefined) return element("span", { className: "token pinned", textContent: token.text, title: "given" });
  const level = token.probability >= SURE ? "sure" : token.probability >= LIKELY ? "likely" : "unsure";
  const className = ["token", level, token.step === k - 1 && "fresh", token.text.includes("\n") && "newline"].filter(Boolean).join(" ");
  const node = element("span", { className, textContent: token.text, title: `step ${token.step + 1}, confidence ${token.probability.toFixed(3)}` });
  node.dataset.step = token.step + 1;
  node.style.setProperty("--t", steps > 1 ? token.step / (steps - 1) : 0);
  return node;
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
  const figure = ([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
  lane.node.querySelector("dl").replaceChildren(...Object.entries(shown).map(figure));
}

function tokens(lane, canvas) {
  const row = (token, i) => {
    const cells = [i, JSON.stringify(token.text), token.step === undefined ? "given" : token.step + 1, token.probability?.toFixed(3) ?? ""];
    return element("tr", {}, ...cells.map((text) => element("td", { textContent: text })));
  };
  lane.node.querySelector("tbody").replaceChildren(...canvas.flatMap((token, i) => (token ? [row(token, i)] : [])));
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

const on = (id, type, listener) => $(id).addEventListener(type, listener);
const each = (selector, type, listener) => document.querySelectorAll(selector).forEach((node) => node.addEventListener(type, () => listener(node)));
const stop = () => state.abort?.abort();

on("form", "submit", (event) => (event.preventDefault(), run()));
on("form", "keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("run").disabled && $("form").requestSubmit());
document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
on("stop", "click", stop);
on("gap", "click", makeGap);
on("key", "change", start);
on("compare", "change", compare);
on("forget", "click", () => (remember([]), $("prompt").focus()));
on("reply", "click", () => {
  const [lane] = state.lanes;
  remember([...lane.body.messages, { role: "assistant", content: lane.done.text }]);
  $("reply").hidden = true;
  $("prompt").value = "";
  $("prompt").focus();
});
on("play", "click", () => {
  if (!state.playing && state.at === longest()) show(0);
  play(!state.playing);
});
on("scrubber", "input", () => (play(false), show(Number($("scrubber").value))));
each("[name=mode]", "change", (radio) => setMode(radio.value));
each("[name=colour]", "change", (radio) => ($("results").dataset.colour = radio.value));
each("[data-example]", "click", (button) => fill(EXAMPLES[button.dataset.example]));

fill(EXAMPLES.words);
start();
