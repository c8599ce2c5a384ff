// The playground. It keeps every step of a run, so that what is shown is always "the canvas after step k".

import { events, json, post } from "./api.js";
import { $, copy, element } from "./dom.js";
import { examplesFor } from "./examples.js";
import { clearErrors, fill, makeGap, remember, request, setMode, showError } from "./form.js";
import { compare, createLane, describe, draw, reset } from "./lane.js";
import { drawOptions, readOptions, writeOptions } from "./options.js";

const FIRST = ["topk", "threshold"]; // what the lanes show at first, where it is installed and the model has no default of its own
const REPLAY = 5000; // milliseconds that a canvas takes to fill at one token per pass: a small model is done before one has looked
const [FASTEST, SLOWEST] = [25, 140]; // milliseconds per pass
const STILL = matchMedia("(prefers-reduced-motion: reduce)").matches; // then each step is shown as it comes
const MOST_CELLS = 512; // of a canvas that waits

const state = { lanes: [], ends: new Set(), mask: "[MASK]", known: null, at: 0, playing: false, judged: false, timer: 0, retry: 0, abort: null };

// ---- what is served

/** Ask what is served, again and again until the model is loaded; where a key is wanted, when one has been typed. */
async function start() {
  clearTimeout(state.retry);
  clearErrors();
  try {
    const [models, schedulers, tokens] = await Promise.all([json("v1/models"), json("v1/schedulers"), json("tokenizer_info")]);
    const [model] = models.data;
    Object.assign(state, { ends: new Set(tokens.stop_token_ids), mask: tokens.mask_token });
    $("model").textContent = `Model: ${model.id}, context of ${model.max_model_len} tokens.`;
    if (!state.lanes.length) build(model, schedulers.data);
    $("run").disabled = false;
  } catch (error) {
    const locked = error.param === "key";
    $("model").textContent = `Not ready: ${error.message}.${locked ? "" : " Asking again."}`;
    if (!locked) state.retry = setTimeout(start, 1500);
    else if ($("key").value) showError(error);
  }
}

function build(model, schedulers) {
  state.known = examplesFor(model.root);
  $("note").textContent = state.known.note;
  const button = (example) => element("button", { type: "button", textContent: example.label, onclick: () => begin(example) });
  $("examples").append(...state.known.examples.map(button));
  fill(state.known.examples[0]);
  const own = model.preset?.defaults.scheduler ?? "";
  const first = !own || own === FIRST[0] ? FIRST : [FIRST[0], own.split(":")[0]];
  state.lanes = first.map((name, i) => createLane(i, schedulers, name));
  $("lanes").replaceChildren(...state.lanes.map(({ node }) => node));
  state.lanes.forEach((lane) => addChooser(lane, schedulers));
  if (first !== FIRST) choose(state.lanes[1], own);
  setCompare();
}

function begin(example) {
  fill(example);
  if (example.scheduler) choose(state.lanes[1], example.scheduler);
  run();
}

/** Choose a scheduler and its options, named as on a command line. */
function choose(lane, text) {
  const [name, ...options] = text.split(":");
  lane.select.value = name;
  lane.select.dispatchEvent(new Event("change"));
  writeOptions(lane.chooser, Object.fromEntries(options.map((option) => option.split("="))));
}

/** The options of a lane's scheduler stand among the settings, where they have room. */
function addChooser(lane, schedulers) {
  lane.chooser = copy("chooser");
  lane.chooser.querySelector(".error").id = `scheduler-error-${lane.i}`;
  $("choosers").append(lane.chooser);
  const describeChosen = () => {
    const chosen = schedulers.find(({ name }) => name === lane.select.value);
    for (const node of [lane.node, lane.chooser]) node.querySelector(".about").textContent = chosen.description;
    drawOptions(lane.chooser, chosen, lane.i);
  };
  lane.select.addEventListener("change", () => (describeChosen(), clear()));
  describeChosen();
}

// ---- lanes that wait

const active = () => state.lanes.slice(0, $("compare").checked ? 2 : 1);

/** How many masks to show before the server has answered; 0 if that is not known. */
function waiting() {
  const length = Number($("max_tokens").value);
  return $("mode").value !== "canvas" && Number.isInteger(length) && length > 0 && length <= MOST_CELLS ? length : 0;
}

function setCompare() {
  const shown = active();
  for (const lane of state.lanes) lane.node.hidden = lane.chooser.hidden = !shown.includes(lane);
  clear();
}

/** Empty all lanes: what they showed is no longer what is chosen. */
function clear() {
  stop();
  state.abort = null;
  state.judged = false;
  play(false);
  layOut();
  for (const lane of state.lanes) reset(lane, null, waiting());
  $("verdict").textContent = state.lanes.length > 1 && $("compare").checked ? "Two schedulers, one prompt. Which needs fewer passes?" : "One scheduler, one prompt.";
  $("play").disabled = $("scrubber").disabled = $("stop").disabled = $("reply").hidden = true;
  show(0);
}

/** The lines of the embedded model's answers have one length, so its canvas is laid out as a page; others fill the width. */
function layOut() {
  const columns = state.known?.columns($("prompt").value) ?? 0;
  $("lanes").classList.toggle("page", columns > 0);
  $("lanes").style.setProperty("--columns", columns);
}

// ---- a run

async function run() {
  stop();
  const abort = (state.abort = new AbortController());
  clearErrors();
  const body = request();
  const lanes = active();
  layOut();
  for (const lane of lanes) reset(lane, { ...body, scheduler: { name: lane.select.value, ...readOptions(lane.chooser) } }, waiting());
  state.judged = false;
  $("verdict").textContent = "Running …";
  $("stop").disabled = false;
  $("reply").hidden = true;
  $("given").hidden = !body.canvas;
  $("announcement").textContent = "";
  if (matchMedia("(width < 75rem)").matches) $("results").scrollIntoView({ behavior: STILL ? "instant" : "smooth" });
  show(0);
  play(true);
  await Promise.all(lanes.map((lane) => follow(lane, abort.signal)));
  if (state.abort !== abort) return; // another run has begun
  state.abort = null;
  $("stop").disabled = true;
  $("reply").textContent = lanes.length > 1 ? "Continue from the answer of A" : "Continue this conversation";
  $("reply").hidden = !body.messages || Boolean(body.canvas) || !lanes[0].done;
  $("announcement").textContent = lanes.filter(({ done }) => done).map(({ name, done }) => `${name} finished: ${done.canvas ?? done.text}`).join(". ");
  if (!lanes.every(({ done }) => done)) $("verdict").textContent = abort.signal.aborted ? "Stopped." : "That did not work.";
  if (!state.playing) show(state.at); // with the server's figures
}

async function follow(lane, signal) {
  const { body } = lane;
  try {
    for await (const [name, data] of events(await post("generate", body, signal))) {
      if (lane.body !== body) return; // the lane has begun something else
      if (name === "start") {
        lane.start = data;
        show(state.at);
      } else if (name === "step") {
        lane.steps.push(data);
        $("scrubber").disabled = $("play").disabled = false;
        position();
      } else if (name === "done") lane.done = data;
      else if (name === "error") throw data;
    }
    if (!lane.done) throw { message: "the connection ended before the answer did" };
  } catch (error) {
    if (lane.body !== body) return;
    lane.stopped = signal.aborted;
    if (!signal.aborted) {
      lane.failure = error.message;
      showError(error, lane.chooser);
    }
  }
  describe(lane);
}

// ---- showing the canvas after a step

const longest = () => Math.max(0, ...active().map((lane) => lane.steps.length));

function show(at) {
  state.at = Math.min(at, longest());
  const lanes = active();
  for (const lane of lanes) draw(lane, Math.min(state.at, lane.steps.length), state);
  position();
  if (state.judged || state.at < longest() || !lanes.length || !lanes.every(({ done }) => done)) return;
  state.judged = true;
  $("verdict").textContent = compare(lanes);
}

function position() {
  const words = `${state.at} of ${longest()}`;
  Object.assign($("scrubber"), { max: longest(), value: state.at });
  $("scrubber").setAttribute("aria-valuetext", `pass ${words}`);
  $("position").textContent = words;
}

function play(on) {
  clearTimeout(state.timer);
  state.playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  if (on) state.timer = setTimeout(tick, STILL ? 0 : pace());
}

const pace = () => Math.min(Math.max(REPLAY / (state.lanes[0].start?.length ?? 1), FASTEST), SLOWEST);

function tick() {
  show(STILL ? longest() : state.at + 1);
  play(Boolean(state.abort) || state.at < longest());
}

// ---- what the visitor does

const on = (id, type, listener) => $(id).addEventListener(type, listener);
const stop = () => state.abort?.abort();

on("form", "submit", (event) => (event.preventDefault(), run()));
on("form", "keydown", (event) => {
  if (event.key !== "Enter" || $("run").disabled || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  $("form").requestSubmit();
});
document.addEventListener("keydown", (event) => event.key === "Escape" && stop());
on("stop", "click", stop);
on("gap", "click", makeGap);
on("key", "change", start);
on("compare", "change", setCompare);
on("max_tokens", "change", () => state.abort || state.judged || clear());
on("mode", "change", () => setMode($("mode").value));
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
for (const radio of document.querySelectorAll("[name=colour]")) radio.addEventListener("change", () => ($("results").dataset.colour = radio.value));

start();
