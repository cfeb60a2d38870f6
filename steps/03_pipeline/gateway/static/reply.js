/** What /inferir has answered: the prediction, the probabilities, the features, the request's way. */

import { bar, byId, certainty, element, milliseconds, percent } from "./elements.js";

const HOPS = ["preprocess", "inference", "storage"]; // asked in this order, one after the other

/**
 * Show a reply to one row or picture.
 * @param call what `call` of gateway.js returns; without it, all is shown as not known
 * @param note shown in place of the probability if there is no reply
 */
export function showReply({ reply, requestId, ms } = {}, note = "") {
  const prediction = reply?.prediction[0];
  const probabilities = reply?.probabilities?.[0];
  byId("prediction").textContent = prediction ?? "";
  byId("certainty").textContent = reply ? certainty(probabilities) : note;
  showProbabilities(probabilities, prediction);
  showGrid(reply);
  showWaterfall(reply?.timings_ms, ms);
  showFacts(reply, requestId);
}

/** A row for each class. The most probable one is the prediction; the reply does not name the others. */
function showProbabilities(probabilities = Array(10).fill(null), prediction) {
  const most = Math.max(...probabilities);
  const isIndex = probabilities[prediction] === most; // as with digits
  const top = prediction === undefined ? -1 : isIndex ? prediction : probabilities.indexOf(most);
  const rows = probabilities.map((share, index) =>
    element(
      "tr",
      { className: index === top ? "top" : "" },
      element("th", { scope: "row" }, `${index === top ? prediction : index}`),
      element("td", {}, bar(0, share ?? 0), share === null ? "–" : percent(share)),
    ),
  );
  byId("probabilities").tBodies[0].replaceChildren(...rows);
}

function showGrid(reply) {
  const features = reply?.features ?? Array(64).fill("");
  const cells = features.map((ink) => {
    const cell = element("td", { className: ink > 8 ? "dark" : ink > 0 ? "" : "none" }, `${ink}`);
    cell.style.backgroundColor = `rgb(0 0 0 / ${ink / 16})`;
    return cell;
  });
  const rows = Array.from({ length: 8 }, (_, row) => element("tr", {}, ...cells.slice(8 * row, 8 * row + 8)));
  byId("grid").tBodies[0].replaceChildren(...rows);

  const version = reply?.preprocess;
  byId("grid-note").textContent = !reply
    ? "What the model sees of a picture: 8x8 numbers, from 0 (no ink) to 16."
    : version
      ? `What preprocess ${version} made of the picture. The model sees nothing else.`
      : "The row that was sent, as it is: preprocess was not asked.";
}

function showWaterfall(timings = {}, ms) {
  const { total } = timings;
  let start = 0;
  const rows = HOPS.map((service) => {
    const spent = timings[service];
    const row = waterfallRow(service, spent, start, total);
    start += spent ?? 0;
    return row;
  });
  byId("waterfall").tBodies[0].replaceChildren(waterfallRow("gateway", total, 0, total), ...rows);
  byId("own").textContent = total
    ? `${milliseconds(Math.max(0, total - start))} of the total are the gateway's own. ` +
      `Seen from this page, it was ${milliseconds(ms)}.`
    : "The way of a request through the services, with the time that each hop takes.";
}

function waterfallRow(service, spent, start, total) {
  return element(
    "tr",
    { className: service },
    element("th", { scope: "row" }, service),
    element("td", {}, ...(spent ? [bar(Math.min(1, start / total), Math.min(1, spent / total))] : [])),
    element("td", {}, spent === undefined ? (total ? "not asked" : "–") : milliseconds(spent)),
  );
}

function storedAs({ stored, storage }) {
  if (stored === "queued") return "queued: the message broker has it on disk until storage has";
  return stored ? "yes" : `no: ${storage ?? "storage has not confirmed it"}`;
}

function showFacts(reply, requestId) {
  const facts = reply && {
    Stored: storedAs(reply),
    Model: `${reply.model.version} (${reply.model.format})`,
    Id: reply.id,
    "Request id": requestId,
  };
  const known = Object.entries(facts ?? {}).filter(([, value]) => value);
  byId("facts").replaceChildren(
    ...known.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
  byId("facts").classList.toggle("unstored", reply?.stored === false);
}
