// Micro-batching, as in Python: what arrives while one batch is predicted becomes the next.

import { setImmediate as turn } from "node:timers/promises";
import { status } from "@grpc/grpc-js";
import { type Answer, N_FEATURES } from "./model.ts";
import { BATCH_ROWS, PREDICT, QUEUE_WAIT, since } from "./telemetry.ts";
import { CallError } from "./tensors.ts";

interface Job {
  rows: Float32Array;
  size: number; // of rows
  begin: number;
  isGone: () => boolean; // nobody waits for the answer any more
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

export class Batcher {
  #queue: Job[] = [];
  #waiting = 0; // rows
  #busy = false;
  readonly #predict: (rows: Float32Array) => Promise<Answer>;
  readonly #limits: { maxBatch: number; maxQueue: number };

  constructor(predict: (rows: Float32Array) => Promise<Answer>, limits: { maxBatch: number; maxQueue: number }) {
    [this.#predict, this.#limits] = [predict, limits];
  }

  /** Return the answer to rows, unless the client `isGone` when their turn comes. Raises CallError. */
  async submit(rows: Float32Array, isGone: () => boolean): Promise<Answer> {
    if (this.#waiting >= this.#limits.maxQueue) {
      throw new CallError(status.RESOURCE_EXHAUSTED, "too many requests are waiting: try again in a second");
    }
    return new Promise((resolve, reject) => {
      const size = rows.length / N_FEATURES;
      this.#queue.push({ rows, size, begin: performance.now(), isGone, resolve, reject });
      this.#waiting += size;
      if (!this.#busy) void this.#work();
    });
  }

  async #work(): Promise<void> {
    this.#busy = true;
    while (this.#queue.length) {
      await turn(); // for calls that have arrived at the same time, and for news of clients that have gone
      const batch = this.#take();
      if (batch.length) await this.#answer(batch);
    }
    this.#busy = false;
  }

  #take(): Job[] {
    const batch: Job[] = []; // a job of more than maxBatch rows is a batch of its own
    for (let size = 0; this.#queue.length; ) {
      const job = this.#queue[0]!;
      if (batch.length && size + job.size > this.#limits.maxBatch) break;
      this.#queue.shift();
      this.#waiting -= job.size;
      if (job.isGone()) {
        job.reject(new CallError(status.CANCELLED, "the client went away before it had its answer"));
      } else {
        batch.push(job);
        size += job.size;
      }
    }
    return batch;
  }

  async #answer(batch: Job[]): Promise<void> {
    const rows = new Float32Array(batch.reduce((sum, job) => sum + job.rows.length, 0));
    batch.reduce((place, job) => (rows.set(job.rows, place), place + job.rows.length), 0);
    const begin = performance.now();
    try {
      const { predictions, probabilities } = await this.#predict(rows);
      const each = probabilities ? probabilities.length / predictions.length : 0;
      let [from, to] = [0, 0];
      for (const { size, resolve } of batch) {
        [from, to] = [to, to + size];
        const own = probabilities?.slice(from * each, to * each) ?? null;
        resolve({ predictions: predictions.slice(from, to), probabilities: own });
      }
    } catch (error) {
      if (batch.length === 1) batch[0]!.reject(error);
      else for (const job of batch) await this.#answer([job]); // the others must not fail with it
      return;
    }
    BATCH_ROWS.observe(rows.length / N_FEATURES);
    QUEUE_WAIT.observe((begin - batch[0]!.begin) / 1000);
    PREDICT.observe(since(begin));
  }
}
