// The few things that every module wants of the document. Texts are set as texts, never as markup.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

export const copy = (template) => $(template).content.cloneNode(true).firstElementChild;

export const passes = (count) => `${count} ${count === 1 ? "pass" : "passes"}`;
