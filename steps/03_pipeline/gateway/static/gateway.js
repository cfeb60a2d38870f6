/** Requests to the gateway, which serves this page. */

import { accept, currentKey, otherKey } from "./key.js";

const PATIENCE_MS = 8000; // the gateway answers within 2 s, with 503 if it has to

/**
 * Call the gateway at a path relative to this page: a proxy may serve both under a path of its own. If it wants a key, ask the reader for it and call again.
 * @returns {Promise<{reply: object, requestId: string | null, ms: number}>} `ms`: from the request to the whole reply
 * @throws {Error} with a sentence for the reader, unless `signal` has aborted the request
 */
export async function call(path, options) {
  let key = currentKey();
  let answer;
  while ((answer = await send(path, key, options)).response.status === 401) key = await otherKey(key);
  accept(key);
  const { response, text, ms } = answer;
  const reply = parse(text);
  if (!response.ok || !reply) {
    throw new Error(reply?.error ?? `The answer has status ${response.status} and says no more.`);
  }
  return { reply, requestId: response.headers.get("X-Request-ID"), ms };
}

async function send(path, key, { signal, ...options } = {}) {
  // One signal for both reasons to stop. AbortSignal.any does this, but browsers before 2024 do not have it.
  const stop = new AbortController();
  const abort = () => stop.abort();
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    abort();
  }, PATIENCE_MS);
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();

  const headers = key === null ? {} : { Authorization: `Bearer ${key}` };
  const started = performance.now();
  try {
    const response = await fetch(path, { ...options, headers, signal: stop.signal });
    const text = await response.text();
    return { response, text, ms: performance.now() - started };
  } catch {
    const why = isLate ? `has not answered for ${PATIENCE_MS / 1000} seconds` : "is not reachable";
    throw new Error(`The gateway ${why}.`);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
