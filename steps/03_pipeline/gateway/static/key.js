/** The key that the gateway may ask for. The page asks the reader for it, and keeps it until the tab is closed. */

import { byId } from "./elements.js";

const NAME = "inferir-key"; // in the session's storage
const WRONG = "The gateway does not take this key.";

let key = kept();
let asking = null; // the promise of another key, and the function that resolves it
let before; // the element that had the focus

/** The key to send; null if none was asked for. */
export const currentKey = () => key;

/** Wait for another key than the one that was refused. All requests that wait get the same one. */
export async function otherKey(refused) {
  if (refused !== key) return key; // the reader has entered it meanwhile
  if (!asking) {
    let resolve;
    const promise = new Promise((fulfil) => (resolve = fulfil));
    asking = { promise, resolve };
    show();
    say(key === null ? "" : WRONG);
  }
  return asking.promise;
}

/** The gateway has answered a request with this key. */
export function accept(taken) {
  if (byId("key").hidden || asking || taken !== key) return;
  byId("key").hidden = true;
  byId("key-text").value = "";
  before.focus();
  keep();
}

function enter(event) {
  event.preventDefault();
  const text = byId("key-text").value.trim();
  say(""); // so that a screen reader reads it out again
  if (!/^[!-~]+$/.test(text)) return say(WRONG); // a header cannot carry it
  key = text;
  asking?.resolve(key);
  asking = null;
}

function show() {
  if (byId("key").hidden) before = document.activeElement;
  byId("key").hidden = false;
  byId("links").hidden = true; // the browser follows them without the key
}

function say(fault) {
  byId("key-fault").textContent = fault;
  byId("key-text").ariaInvalid = String(Boolean(fault));
  byId("key-text").focus();
  byId("key-text").select();
}

// A browser may forbid storage. Then the key lasts until the reader leaves the page.

function kept() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

function keep() {
  try {
    sessionStorage.setItem(NAME, key);
  } catch {}
}

byId("key").querySelector("form").addEventListener("submit", enter);
byId("links").hidden = key !== null;
