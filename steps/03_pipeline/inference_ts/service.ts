// The model, loaded once in a thread of its own, and the batcher in front of it.

import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { status } from "@grpc/grpc-js";
import { Batcher } from "./batcher.ts";
import type { Answer, ModelInfo } from "./model.ts";
import type { Settings } from "./settings.ts";
import { log } from "./telemetry.ts";
import { CallError } from "./tensors.ts";

/** Predicts between start() and stop(). If the model cannot be used, it says why instead. */
export class Service {
  problem = "the model is not loaded yet";
  leaving = false; // it shuts down
  model: ModelInfo | undefined;
  readonly #folder: string;
  readonly #worker: Worker;
  readonly #batcher: Batcher;

  constructor(settings: Settings) {
    this.#worker = new Worker(new URL("predictor.ts", import.meta.url), { workerData: settings.modelDir });
    this.#worker.on("error", (error) => {
      throw error; // without the thread, the process is of no use: it ends, and what started it starts it again
    });
    this.#folder = settings.modelDir;
    this.#batcher = new Batcher((rows) => this.#predict(rows), settings);
  }

  /** Wait for the model. The service also starts with a model that cannot be used. */
  async start(): Promise<void> {
    const [{ problem, cause, ...model }] = await once(this.#worker, "message");
    if (problem) {
      this.problem = problem;
      log(`not ready, model folder ${this.#folder}: ${problem} (cause: ${cause})`, {}, "ERROR");
    } else {
      this.model = model;
    }
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
  }

  requireModel(): ModelInfo {
    if (!this.model) throw new CallError(status.UNAVAILABLE, this.problem);
    return this.model;
  }

  /** Answer rows, unless the client `isGone` when their turn comes. Raises CallError. */
  async predict(rows: Float32Array, isGone: () => boolean): Promise<Answer> {
    this.requireModel();
    return this.#batcher.submit(rows, isGone);
  }

  async #predict(rows: Float32Array): Promise<Answer> {
    this.#worker.postMessage(rows);
    const [{ answer, refusal, error }] = await once(this.#worker, "message");
    if (error) throw error;
    if (refusal) {
      log(`the model cannot answer a request: ${refusal}`, {}, "ERROR");
      throw new CallError(status.INTERNAL, refusal);
    }
    return answer;
  }
}
