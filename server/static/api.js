// The server's public endpoints, and nothing else.

import { $ } from "./dom.js";

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

export const post = (path, body, signal) => ask(path, { method: "POST", body: JSON.stringify(body), signal });
export const json = async (path) => (await ask(path)).json();

/** The named events of a stream, as pairs of name and data. Comments, which keep a connection alive, are left out. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let buffer = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (buffer + value).split("\n\n");
    buffer = parts.pop();
    for (const part of parts) {
      const found = part.match(/^event: ([^\n]*)\ndata: ([^\n]*)/);
      if (found) yield [found[1], JSON.parse(found[2])];
    }
  }
}
