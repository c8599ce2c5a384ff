// The form of a scheduler's options, drawn from their JSON schema. What equals the default is left to the server.

import { CHOICES } from "./examples.js";
import { element } from "./dom.js";

/** Draw the options of a scheduler into a fieldset that belongs to lane i. */
export function drawOptions(fieldset, { name, options }, i) {
  const fields = Object.entries(options.properties).map(([option, schema]) => field(option, schema, i));
  fieldset.querySelector("legend").textContent = `${"AB"[i]}: ${name}`;
  fieldset.querySelector(".options").replaceChildren(...(fields.length ? fields : [element("p", { className: "hint", textContent: "No options." })]));
}

/** The options of a fieldset that are not at their defaults. */
export function readOptions(fieldset) {
  const changed = [...fieldset.querySelectorAll("[name]")].filter((input) => input.value !== "" && input.value !== input.dataset.default);
  return Object.fromEntries(changed.map((input) => [input.name, read(input)]));
}

/** Fill in options, given as texts by name; what the fieldset lacks is left out. */
export function writeOptions(fieldset, texts) {
  for (const input of fieldset.querySelectorAll("[name]")) {
    const text = texts[input.name];
    if (text !== undefined) input.value = "json" in input.dataset && !/^(true|false)$/.test(text) ? JSON.stringify(text) : text;
  }
}

/** What is typed, as a number if it is one: the server has the words for what is not. */
export const number = (text) => (text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text));

function read(input) {
  if ("json" in input.dataset) return JSON.parse(input.value);
  return "number" in input.dataset ? number(input.value) : input.value;
}

function field(name, schema, i) {
  const id = `option-${i}-${name}`;
  const input = schema.enum || schema.type === "boolean" || CHOICES[name] ? select(name, schema) : text(schema);
  Object.assign(input, { id, name });
  input.dataset.default = input.value;
  input.setAttribute("aria-describedby", `${id}-hint scheduler-error-${i}`);
  const range = [schema.minimum != null && `from ${schema.minimum}`, schema.maximum != null && `to ${schema.maximum}`].filter(Boolean).join(" ");
  const words = [schema.description, range].filter(Boolean).join("; ");
  const hint = element("p", { className: "hint", id: `${id}-hint`, textContent: words, title: words }); // a long one is cut until its field is in use
  return element("div", { className: "field option" }, element("label", { htmlFor: id, textContent: name }), input, hint);
}

function text(schema) {
  const input = element("input", { value: schema.default ?? "", placeholder: "not set", spellcheck: false });
  if (/number|integer/.test(schema.type)) [input.inputMode, input.dataset.number] = ["decimal", ""];
  return input;
}

function select(name, schema) {
  const values = schema.enum ?? (schema.type === "boolean" ? [true, false] : CHOICES[name]);
  const input = element("select", {}, ...values.map((one) => new Option(one, JSON.stringify(one), one === schema.default, one === schema.default)));
  input.dataset.json = "";
  if (CHOICES[name]) offerAnother(input);
  return input;
}

/** A last entry that turns the select box into a text field, for what only this server has. */
function offerAnother(input) {
  input.append(new Option("a folder on the server …", "null"));
  input.addEventListener("change", () => {
    if (input.value !== "null") return;
    const free = element("input", { id: input.id, name: input.name, placeholder: "path of the folder", spellcheck: false });
    free.setAttribute("aria-describedby", input.getAttribute("aria-describedby"));
    input.replaceWith(free);
    free.focus();
  });
}
