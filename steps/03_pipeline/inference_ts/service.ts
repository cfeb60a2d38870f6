// The model, loaded once, and the queue in front of it.

import { setImmediate as turn } from "node:timers/promises";
import { status } from "@grpc/grpc-js";
import type { Answer, Model } from "./model.ts";
import { AnswerError, load, ModelError, N_FEATURES } from "./model.ts";
import { BATCH_ROWS, log, PREDICT, QUEUE_WAIT, since } from "./telemetry.ts";
import { CallError } from "./tensors.ts";

/** Predicts, or says why it cannot. */
export class Service {
  problem = "the model is not loaded yet";
  leaving = false; // it shuts down
  model: Model | undefined;
  #waiting = 0; // rows
  #last: Promise<unknown> = Promise.resolve();
  readonly #maxQueue: number;

  constructor(maxQueue: number) {
    this.#maxQueue = maxQueue;
  }

  /** Load the model. The service also starts with a model that cannot be used. */
  async start(folder: string): Promise<void> {
    try {
      this.model = await load(folder);
    } catch (error) {
      if (!(error instanceof ModelError)) throw error;
      this.problem = error.message;
      log(`not ready, model folder ${folder}: ${error.message} (cause: ${error.cause})`, {}, "ERROR");
    }
  }

  requireModel(): Model {
    if (!this.model) throw new CallError(status.UNAVAILABLE, this.problem);
    return this.model;
  }

  /** Answer rows when all that came before are answered, unless the client `isGone` by then. Raises CallError. */
  async predict(rows: Float32Array, isGone: () => boolean): Promise<Answer> {
    if (this.#waiting >= this.#maxQueue) {
      throw new CallError(status.RESOURCE_EXHAUSTED, "too many requests are waiting: try again in a second");
    }
    const [size, begin] = [rows.length / N_FEATURES, performance.now()];
    this.#waiting += size;
    const answer = this.#last.then(() => this.#predictNow(rows, size, begin, isGone));
    this.#last = answer.catch(() => {});
    return answer;
  }

  async #predictNow(rows: Float32Array, size: number, begin: number, isGone: () => boolean): Promise<Answer> {
    await turn(); // onnxruntime keeps the event loop busy. Between two predictions, it learns which clients have gone.
    this.#waiting -= size;
    if (isGone()) throw new CallError(status.CANCELLED, "the client went away before it had its answer");
    QUEUE_WAIT.observe(since(begin));
    BATCH_ROWS.observe(size);
    const end = PREDICT.startTimer();
    try {
      return await this.requireModel().predict(rows);
    } catch (error) {
      if (!(error instanceof AnswerError)) throw error;
      log(`the model cannot answer a request: ${error.message}`, {}, "ERROR");
      throw new CallError(status.INTERNAL, error.message);
    } finally {
      end();
    }
  }
}
