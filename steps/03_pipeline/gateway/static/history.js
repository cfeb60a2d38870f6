/** The results that storage keeps. */

import { byId, certainty, element, thumbnail } from "./elements.js";
import { call } from "./gateway.js";

const PAGE = 10; // rows

let shown = []; // results, newest first
let next = null; // the cursor to older ones
const loading = { newer: new AbortController(), older: new AbortController() };

const when = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "numeric", minute: "2-digit", second: "2-digit",
});

/** Load new results. Those that are shown stay if there is no gap between them and the new ones. */
export function refresh() {
  return load("newer", {}, (page) => {
    const known = page.results.findIndex(({ id }) => id === shown[0]?.id);
    if (known >= 0) {
      shown = [...page.results.slice(0, known), ...shown];
    } else {
      begin(page);
    }
  });
}

function loadOlder() {
  return load("older", { before: next }, (page) => {
    shown = [...shown, ...page.results];
    next = page.next;
  });
}

/** Start the list again. Older results that are under way belong to the old list. */
function begin({ results, next: cursor }) {
  loading.older.abort();
  [shown, next] = [results, cursor];
}

/** Load a page of results, newer or older (`kind`) than the ones shown. It replaces a load of the same kind. */
async function load(kind, query, take) {
  loading[kind].abort();
  const { signal } = (loading[kind] = new AbortController());
  const prediction = byId("filter").querySelector(":checked").value;
  const parameters = new URLSearchParams({ limit: PAGE, ...(prediction && { prediction }), ...query });
  try {
    const [page, summary] = await Promise.all([
      call(`results?${parameters}`, { signal }),
      call("results/summary", { signal }),
    ]);
    take(page.reply);
    showResults();
    showSummary(summary.reply);
    byId("history-fault").textContent = "";
  } catch (error) {
    if (!signal.aborted) byId("history-fault").textContent = `History is not available: ${error.message}`;
  }
}

function showResults() {
  const rows = shown.map((result) =>
    element(
      "tr",
      {},
      element("td", {}, thumbnail(result.features)),
      element("td", {}, `${result.prediction}`),
      element("td", {}, certainty(result.probabilities)),
      element("td", {}, element("time", { dateTime: result.time }, when.format(new Date(result.time)))),
      element("td", {}, result.model.version),
      element("td", {}, result.preprocess ?? "–"),
    ),
  );
  byId("results").tBodies[0].replaceChildren(...rows);
  byId("older").disabled = !next;
}

function showSummary({ total, by_prediction, by_model_version }) {
  for (const prediction of Object.keys(by_prediction)) {
    const isNew = ![...byId("filter").querySelectorAll("input")].some(({ value }) => value === prediction);
    if (isNew) byId("filter").append(choice(prediction));
  }
  for (const choice of byId("filter").querySelectorAll("label")) {
    const { value } = choice.querySelector("input");
    choice.querySelector("small").textContent = value ? (by_prediction[value] ?? 0) : total;
  }
  const models = Object.entries(by_model_version).map(([version, count]) => `${version} (${count})`);
  byId("history-note").textContent = total ? `By model: ${models.join(", ")}` : "Nothing is stored yet.";
}

function choice(value) {
  return element(
    "label",
    {},
    element("input", { type: "radio", name: "prediction", value, checked: !value }),
    element("span", {}, value || "all", " ", element("small", {})),
  );
}

export function startHistory() {
  byId("filter").append(choice(""), ...Array.from("0123456789", choice));
  byId("filter").addEventListener("change", () => {
    begin({ results: [], next: null });
    showResults(); // remove the rows of the old filter, even if nothing else can be loaded
    refresh();
  });
  byId("older").addEventListener("click", loadOlder);
  byId("refresh").addEventListener("click", refresh);
  refresh();
}
