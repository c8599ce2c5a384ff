// One lane: a scheduler, its canvas, its headline, and the figures folded below.

import { canvasAfter, inWords, onPick, paint } from "./canvas.js";
import { copy, element, passes } from "./dom.js";

/** A lane that has not run yet. The lane is kept from run to run; `reset` empties it. */
export function createLane(i, schedulers, first) {
  const node = copy("lane");
  const find = (selector) => node.querySelector(selector);
  const lane = { i, node, find, canvas: find(".canvas"), select: find("select"), steps: [] };
  const names = schedulers.map(({ name }) => name);
  lane.select.append(...names.map((name) => new Option(name)));
  lane.select.value = names.includes(first) ? first : names[0];
  lane.select.setAttribute("aria-label", `Scheduler ${"AB"[i]}`);
  find(".letter").textContent = "AB"[i];
  onPick(lane.canvas, (position) => {
    lane.picked = position;
    describe(lane);
  });
  return lane;
}

/** Empty the lane for a run of `body`, or for none; `length` masks wait on its canvas, so that nothing moves later. */
export function reset(lane, body, length) {
  Object.assign(lane, { body, name: lane.select.value, steps: [], start: null, done: null, failure: "", stopped: false, at: 0, drawn: "" });
  paint(lane.canvas, Array(length || lane.canvas.children.length).fill(null), 0, new Set()); // how long gaps are, the server says
  lane.canvas.setAttribute("aria-label", `Canvas of ${lane.name}`);
  lane.canvas.classList.remove("finished");
  for (const part of [".before", ".after", ".answer", ".badge b"]) lane.find(part).textContent = "";
  lane.node.classList.remove("fewest", "ran");
  lane.node.classList.toggle("begun", Boolean(body));
  headline(lane, body ? "0" : "–", "–");
  describe(lane);
}

/** Show the lane as it is after k of its steps, if that is not what it shows. */
export function draw(lane, k, { ends, mask }) {
  if (!lane.start) return;
  const finished = Boolean(lane.done) && k === lane.steps.length;
  const wanted = `${k} of ${lane.steps.length} ${finished}`;
  if (lane.drawn === wanted) return;
  lane.drawn = wanted;
  lane.at = k;
  lane.canvas.style.setProperty("--steps", lane.steps.length);
  lane.shown = canvasAfter(lane, k);
  paint(lane.canvas, lane.shown, k, ends);
  describe(lane);
  lane.canvas.classList.toggle("finished", finished);
  surround(lane, mask);
  const revealed = lane.shown.filter((token) => token?.step !== undefined && !ends.has(token.id)).length;
  headline(lane, k, ((finished ? lane.done.diffusion.tokens_per_step : k && revealed / k) || 0).toFixed(1));
  if (finished) details(lane);
}

/** The text in front of the region with gaps, and the one after it. */
function surround(lane, mask) {
  if (!lane.body.canvas) return;
  const parts = lane.body.canvas.replaceAll(mask, "[MASK]").split(/\[MASK(?::\d+)?\]/);
  lane.find(".before").textContent = parts.at(0).replace(/\n$/, ""); // it stands on lines of its own anyway
  lane.find(".after").textContent = parts.at(-1).replace(/^\n/, "");
}

function headline(lane, count, rate) {
  lane.find(".passes b").textContent = count;
  lane.find(".passes span").textContent = count === 1 ? "pass" : "passes";
  lane.find(".rate b").textContent = rate;
}

/** The line below the canvas: the cell that is pointed at, or else how far the server is, and the replay. */
export function describe(lane) {
  const token = lane.start && lane.picked >= 0 ? lane.shown?.[lane.picked] : undefined;
  lane.find(".state").textContent = token === undefined ? words(lane) : inWords(token, lane.picked);
}

function words({ body, start, steps, done, failure, stopped, at }) {
  const ran = passes(steps.length);
  if (failure) return `Failed: ${failure}`;
  if (stopped) return `Stopped by you after ${ran}.`;
  if (!body) return "";
  if (!done) return start ? `Running: ${ran} so far.` : "Waiting for the server.";
  const took = `Done in ${ran} and ${done.diffusion.generate_seconds.toFixed(2)} s.`;
  if (at < steps.length) return `${took} Replay at pass ${at}.`;
  if (!done.text.trim()) return `${took} The model wrote no text.`;
  return done.finish_reason === "length" && !body.canvas ? `${took} The canvas is full.` : took;
}

/** What is folded: the server's figures, the text, and a table of the tokens. */
function details(lane) {
  const { tokens_per_second, generate_seconds, queue_seconds, block_length, cache, scheduler } = lane.done.diffusion;
  const options = Object.entries(scheduler).filter(([name, value]) => name !== "name" && value !== null);
  const figures = {
    options: options.map(([name, value]) => `${name} ${value}`).join(", ") || "none",
    "tokens per second": Math.round(tokens_per_second),
    seconds: generate_seconds.toFixed(3),
    "seconds in the queue": queue_seconds.toFixed(3),
    "block length": block_length,
    cache,
  };
  const figure = ([name, value]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
  lane.find("dl").replaceChildren(...Object.entries(figures).map(figure));
  lane.find(".answer").textContent = lane.done.canvas ?? lane.done.text;
  lane.find("tbody").replaceChildren(...lane.shown.flatMap((token, i) => (token ? [row(token, i)] : [])));
  lane.node.classList.add("ran");
}

function row(token, i) {
  const cells = [i, JSON.stringify(token.text), token.step === undefined ? "given" : token.step + 1, token.probability?.toFixed(3) ?? ""];
  return element("tr", {}, ...cells.map((text) => element("td", { textContent: text })));
}

/** Say on the lanes and in one sentence which took fewer passes, once all are done. */
export function compare(lanes) {
  if (lanes.every(({ done }) => !done.text.trim())) return "The model wrote no text. Try an example.";
  const [fewest, most] = [...lanes].sort((a, b) => passesOf(a) - passesOf(b));
  const least = passes(passesOf(fewest));
  if (!most) return `${fewest.name} took ${least}.`;
  const same = fewest.done.text === most.done.text ? "Both wrote the same text." : "Their texts differ.";
  const [left, right] = fewest.name === most.name ? ["AB"[fewest.i], "AB"[most.i]] : [fewest.name, most.name];
  if (passesOf(fewest) === passesOf(most)) return `Both took ${least}. ${same}`;
  const ratio = passesOf(most) / passesOf(fewest);
  const times = `${Number(ratio.toFixed(1))}×`;
  fewest.node.classList.add("fewest");
  fewest.find(".badge b").textContent = times;
  return `${left} took ${times} fewer passes than ${right}. ${same}`;
}

const passesOf = (lane) => lane.done.diffusion.forward_passes;
