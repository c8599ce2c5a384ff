// A canvas: one cell of fixed size per position. A cell is touched only when what it shows has changed.

import { element } from "./dom.js";

const [SURE, LIKELY] = [0.9, 0.6];
const painted = new WeakMap(); // cell -> what it shows

/** What stands at each position after k steps of a run; null is a mask. */
export function canvasAfter({ start, steps }, k) {
  const canvas = Array(start.length).fill(null);
  for (const [position, id, text] of start.pinned ?? []) canvas[position] = { id, text };
  for (const { step, revealed, remasked, written = [] } of steps.slice(0, k)) {
    for (const position of remasked) canvas[position] = null;
    for (const [position, id, text, probability] of [...revealed, ...written]) {
      canvas[position] = { id, text, probability, step };
    }
  }
  return canvas;
}

/** Show a canvas as it is after k steps. `ends` are the ids of tokens that end a text. */
export function paint(node, canvas, k, ends) {
  while (node.children.length > canvas.length) node.lastElementChild.remove();
  canvas.forEach((token, i) => {
    const cell = node.children[i] ?? node.appendChild(element("span", {}, element("span")));
    const { className, text = "" } = look(token, k, ends);
    const now = JSON.stringify([className, text, token?.step]);
    if (painted.get(cell) === now) return;
    painted.set(cell, now);
    cell.className = `cell ${className}`;
    cell.style.setProperty("--step", (token?.step ?? -1) + 1);
    cell.style.setProperty("--letters", Math.max(1, text.trim().length));
    if (cell.textContent !== text) cell.firstElementChild.textContent = text;
    if (token?.step === undefined) delete cell.dataset.step;
    else cell.dataset.step = token.step + 1;
  });
}

function look(token, k, ends) {
  if (!token) return { className: "mask" };
  if (ends.has(token.id)) return { className: "end", text: "·" };
  const newline = token.text.includes("\n") ? " newline" : "";
  if (token.step === undefined) return { className: `token pinned${newline}`, text: token.text };
  const level = token.probability >= SURE ? "sure" : token.probability >= LIKELY ? "likely" : "unsure";
  return { className: `token ${level}${newline}${token.step === k - 1 ? " fresh" : ""}`, text: token.text };
}

/** One position in words. */
export function inWords(token, position) {
  if (!token) return `Position ${position}: still a mask.`;
  if (token.step === undefined) return `Position ${position}: ${JSON.stringify(token.text)}, given.`;
  return `Position ${position}: ${JSON.stringify(token.text)}, pass ${token.step + 1}, confidence ${token.probability.toFixed(3)}.`;
}

/** Tell which cell the visitor points at, with a pointer or with the arrow keys; -1 when none. */
export function onPick(node, listener) {
  let picked = -1;
  const pick = (i) => {
    node.children[picked]?.classList.remove("picked");
    picked = node.children[i] ? i : -1;
    node.children[picked]?.classList.add("picked");
    listener(picked);
  };
  const at = ({ target }) => pick([...node.children].indexOf(target.closest(".cell")));
  for (const type of ["pointerover", "click"]) node.addEventListener(type, at);
  for (const type of ["pointerleave", "blur"]) node.addEventListener(type, () => pick(-1));
  node.addEventListener("keydown", (event) => {
    const columns = getComputedStyle(node).gridTemplateColumns.split(" ").length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!by) return;
    event.preventDefault();
    pick(Math.min(Math.max(picked < 0 ? 0 : picked + by, 0), node.children.length - 1));
  });
}
