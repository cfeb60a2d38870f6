/** Draw a digit, get a digit: what the reader does, and what then happens. */

import { Drawing, followKeys, followPointer } from "./drawing.js";
import { byId, thumbnail } from "./elements.js";
import { call } from "./gateway.js";
import { refresh, startHistory } from "./history.js";
import { readPicture } from "./pictures.js";
import { showReply } from "./reply.js";
import { checkServices, watchServices } from "./services.js";

const PAUSE_MS = 250; // after a stroke: a digit may take another one
const QUEUE_MS = 500; // until storage has most likely fetched a result from the queue
// prettier-ignore
const SAMPLE = [ // a 3
  0, 0,  9, 16, 10,  1, 0, 0,
  0, 0,  8,  3, 16,  4, 0, 0,
  0, 0,  0,  5, 14,  2, 0, 0,
  0, 0,  2, 16, 15,  7, 0, 0,
  0, 0,  0,  0,  3, 15, 2, 0,
  0, 4,  6,  0,  0, 13, 7, 0,
  0, 6, 13,  1,  5, 16, 3, 0,
  0, 0, 10, 16, 15,  5, 0, 0,
];

const drawing = new Drawing(byId("canvas"));
let given = null; // what is sent in place of the drawing: a picture from a file, or a row of features
let reading = null; // the file that is being read
let asking = new AbortController();
let pause;

/** Forget the request, or the file, that is under way. */
function drop() {
  clearTimeout(pause);
  reading = null;
  asking.abort();
  byId("result").ariaBusy = "false";
}

/** Ask what the paper shows. Do not wait for the answer to an older request. */
async function recognize() {
  drop();
  const { signal } = (asking = new AbortController());
  byId("result").ariaBusy = "true";
  let answer, fault;
  try {
    const body = given ?? (await drawing.toBlob()); // a Blob: its type becomes the Content-Type
    answer = await call("inferir", { method: "POST", body, signal });
  } catch (error) {
    fault = error;
  }
  if (signal.aborted) return;

  byId("result").ariaBusy = "false";
  byId("fault").textContent = fault?.message ?? "";
  if (fault) {
    showReply({}, "No answer");
    checkServices();
  } else {
    answer.reply.features ??= SAMPLE; // the one row that this page sends as such
    showReply(answer);
    refresh();
    if (answer.reply.stored === "queued") setTimeout(refresh, QUEUE_MS);
  }
}

function reset() {
  drop();
  given = null;
  byId("fault").textContent = "";
  showReply({}, "Nothing is drawn yet");
}

async function recognizeFile(file) {
  if (!file) return;
  drop();
  reading = file;
  const { blob, picture } = await readPicture(file);
  if (reading !== file) return; // the reader has done something else meanwhile
  drawing.show(picture);
  given = blob;
  recognize();
}

function recognizeSample() {
  drawing.show(thumbnail(SAMPLE));
  given = new Blob([JSON.stringify({ features: SAMPLE })], { type: "application/json" });
  recognize();
}

drawing.addEventListener("begin", () => {
  clearTimeout(pause);
  given = reading = null;
});
drawing.addEventListener("stroke", () => {
  clearTimeout(pause);
  reading = null;
  pause = setTimeout(recognize, PAUSE_MS);
});
drawing.addEventListener("clear", reset);
followPointer(drawing, byId("canvas"));
followKeys(drawing, byId("canvas"), byId("pen"), byId("pen-state"));

byId("recognize").addEventListener("click", recognize);
byId("undo").addEventListener("click", () => drawing.undo());
byId("clear").addEventListener("click", () => drawing.clear());
byId("sample").addEventListener("click", recognizeSample);
byId("file").addEventListener("change", ({ target }) => {
  recognizeFile(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});

// A picture may be dropped anywhere: beside the drop zone, the browser would leave the page for it.
const mark = (isOver) => byId("drop").classList.toggle("over", isOver);
addEventListener("dragover", (event) => {
  event.preventDefault();
  mark(true);
});
addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
addEventListener("drop", (event) => {
  event.preventDefault();
  mark(false);
  recognizeFile(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => recognizeFile(event.clipboardData.files[0]));

showReply({}, "Nothing is drawn yet");
startHistory();
watchServices(refresh);
