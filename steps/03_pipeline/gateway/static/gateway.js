/** Requests to the gateway, which serves this page. */

const PATIENCE_MS = 8000; // the gateway answers within 2 s, with 503 if it has to

/**
 * Call the gateway.
 * @returns {Promise<{reply: object, requestId: string | null, ms: number}>} `ms`: from the request to the whole reply
 * @throws {Error} with a sentence for the reader, unless `signal` has aborted the request
 */
export async function call(path, { signal, ...options } = {}) {
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const started = performance.now();
  let response, text;
  try {
    response = await fetch(path, { ...options, signal: signal ? AbortSignal.any([signal, patience]) : patience });
    text = await response.text();
  } catch {
    const why = patience.aborted ? `has not answered for ${PATIENCE_MS / 1000} seconds` : "is not reachable";
    throw new Error(`The gateway ${why}.`);
  }
  const ms = performance.now() - started;
  const reply = parse(text);
  if (!response.ok || !reply) {
    throw new Error(reply?.error ?? `The answer has status ${response.status} and says no more.`);
  }
  return { reply, requestId: response.headers.get("X-Request-ID"), ms };
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
