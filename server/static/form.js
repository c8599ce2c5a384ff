// What the visitor asks for: the prompt, the numbers, the conversation so far, and what was wrong with them.

import { post } from "./api.js";
import { $, element } from "./dom.js";
import { number } from "./options.js";

const LABELS = { messages: "Your message", prompt: "Text to go on from", canvas: "What the text answers (may be empty)" };

let history = []; // the messages before this one

/** The body of a request, without its scheduler. */
export function request() {
  const mode = $("mode").value;
  const prompt = $("prompt").value;
  const numbers = [...document.querySelectorAll("#numbers .field:not([hidden]) input")].filter((input) => input.value !== "");
  const body = { stream: true, ...Object.fromEntries(numbers.map((input) => [input.id, number(input.value)])) };
  if (mode === "canvas") body.canvas = $("canvas").value;
  if (mode === "prompt") body.prompt = prompt;
  else if (prompt || mode === "messages") body.messages = [...(mode === "messages" ? history : []), { role: "user", content: prompt }];
  return body;
}

export function setMode(mode) {
  $("mode").value = mode;
  $("prompt-label").textContent = LABELS[mode];
  $("canvas-field").hidden = mode !== "canvas";
  $("max_tokens").closest(".field").hidden = mode === "canvas"; // the gaps say it
  $("history").hidden = mode !== "messages" || !history.length;
}

export function fill({ label, mode, scheduler, ...fields }) {
  clearErrors();
  remember([]);
  setMode(mode);
  for (const [id, text] of Object.entries(fields)) $(id).value = text;
}

/** Turn the selection into a gap of as many tokens; the space in front goes with it, as it belongs to the token. */
export async function makeGap() {
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

export function remember(messages) {
  history = messages;
  $("history").hidden = !messages.length;
  $("history").firstElementChild.replaceChildren(...messages.map(({ role, content }) => element("li", {}, element("b", { textContent: role }), ` ${content}`)));
}

/** The server's words, beside what caused them. */
export function showError({ message, param }, chooser) {
  const field = String(param ?? "").split(/[.[]/)[0];
  const owner = `[data-error~="${CSS.escape(field)}"]`;
  const place = chooser?.querySelector(owner) ?? document.querySelector(owner) ?? $("form-error");
  place.textContent = message;
  if ($("settings").contains(place)) $("settings").open = true;
  const inputs = [...document.querySelectorAll(`[aria-describedby~="${place.id}"]`)];
  const isCause = ({ id, name }) => inputs.length === 1 || id === field || (name && message.includes(`option '${name}'`));
  for (const input of inputs.filter(isCause)) input.setAttribute("aria-invalid", "true");
}

export function clearErrors() {
  for (const node of document.querySelectorAll(".error")) node.textContent = "";
  for (const node of document.querySelectorAll("[aria-invalid]")) node.removeAttribute("aria-invalid");
}
