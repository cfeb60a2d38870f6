/** The health of the services, live. */

import { byId, milliseconds } from "./elements.js";
import { call } from "./gateway.js";

const SERVICES = ["preprocess", "inference", "storage"];
const PACE_MS = { calm: 2000, alarmed: 1000 };

let hurry = () => {};

/** Ask the services now, before it is time for it. */
export const checkServices = () => hurry();

/** Watch the services for as long as the page is open; `onStorageBack` is called when storage has come back. */
export async function watchServices(onStorageBack) {
  let storageWasDown = false;
  for (;;) {
    while (document.hidden) await visibilityChange();
    const health = await readHealth();
    const down = Object.keys(health).filter((service) => health[service].state === "down");
    showHealth(health, down);

    const { state } = health.storage;
    if (state === "ready" && storageWasDown) onStorageBack();
    storageWasDown = state !== "ready";
    await new Promise((resolve) => {
      hurry = resolve;
      setTimeout(resolve, down.length ? PACE_MS.alarmed : PACE_MS.calm);
    });
  }
}

const visibilityChange = () =>
  new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));

/** The state of each service: "ready", "down", or "unknown" if it cannot be asked; and a text about it. */
async function readHealth() {
  try {
    const { reply, ms } = await call("services");
    return mapServices((service) => healthOf(reply[service]), healthOf({ ready: true, ms }));
  } catch {
    return mapServices(() => ({ state: "unknown", text: "not known" }), { state: "down", text: "not reachable" });
  }
}

function mapServices(health, gateway) {
  return { gateway, ...Object.fromEntries(SERVICES.map((service) => [service, health(service)])) };
}

function healthOf({ ready, ms, reason, url }) {
  const queued = url?.startsWith("nats:") && !reason?.startsWith("the broker"); // results that come meanwhile
  if (!ready) return { state: "down", text: `not ready: ${reason}`, queued };
  // One that is ready has a reason too if one of its replicas is down.
  return { state: "ready", text: `ready, ${milliseconds(ms)}${reason ? `; ${reason}` : ""}` };
}

function showHealth(health, down) {
  for (const [service, { state, text }] of Object.entries(health)) {
    const item = byId(`service-${service}`);
    item.dataset.state = state;
    item.querySelector(".state").textContent = text;
  }
  // Screen readers read it out when it changes, and only then.
  const areDown = `${list(down)} ${down.length > 1 ? "are" : "is"} down.`;
  const sentence = down.length ? `${areDown} ${consequence(down, health)}` : "";
  if (byId("outage").textContent !== sentence) byId("outage").textContent = sentence;
}

const list = (names) => new Intl.ListFormat("en").format(names);

/** What does not work without the services that are down, and what still does. */
function consequence(down, health) {
  const [gateway, preprocess, inference, storage] = ["gateway", ...SERVICES].map((name) => down.includes(name));
  if (gateway) return "Nothing works until it is back. This page keeps asking.";
  if (inference && storage) return "Nothing can be recognized, and there is no history.";
  if (inference) return "Nothing can be recognized; the history can still be read.";
  const effects = [];
  if (preprocess) effects.push("Pictures cannot be read; rows of features still work: send a sample row.");
  if (storage) effects.push(`Digits are recognized but ${health.storage.queued ? "wait in the queue" : "not kept"}.`);
  return effects.join(" ");
}
