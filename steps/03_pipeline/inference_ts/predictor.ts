// A thread that loads the model and answers rows: onnxruntime keeps busy the event loop that it runs on.

import { parentPort, workerData } from "node:worker_threads";
import { AnswerError, load, type Model, ModelError } from "./model.ts";

const port = parentPort!;

function answerRows(model: Model): void {
  port.on("message", async (rows: Float32Array) => {
    try {
      port.postMessage({ answer: await model.predict(rows) });
    } catch (error) {
      port.postMessage(error instanceof AnswerError ? { refusal: error.message } : { error });
    }
  });
  port.postMessage({ version: model.version, hasProbabilities: model.hasProbabilities });
}

// A model that cannot be used is no reason to end: the service says why.
await load(workerData).then(answerRows, (error) => {
  if (!(error instanceof ModelError)) throw error;
  port.postMessage({ problem: error.message, cause: String(error.cause) });
});
