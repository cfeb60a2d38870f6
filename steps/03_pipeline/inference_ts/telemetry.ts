// What every call and request gets: an id, a measurement for Prometheus, a line of JSON in the log.

import { randomBytes } from "node:crypto";
import { collectDefaultMetrics, Histogram } from "prom-client";

const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5];

function histogram<Label extends string>(name: string, help: string, labelNames: Label[], buckets = SECONDS) {
  return new Histogram({ name, help, labelNames, buckets });
}

const [RPC, HTTP] = ["grpc_request_duration_seconds", "http_request_duration_seconds"];
export const CALLS = histogram(RPC, "From request to response", ["method", "code"]);
export const REQUESTS = histogram(HTTP, "From request to response", ["method", "route", "status"]);
export const BATCH_ROWS = histogram("batch_rows", "Rows in a call of predict", [], [1, 2, 4, 8, 16, 32, 64, 256, 1024]);
export const QUEUE_WAIT = histogram("queue_wait_seconds", "How long a request waited to be predicted", []);
export const PREDICT = histogram("predict_seconds", "How long a call of predict took", []);
collectDefaultMetrics(); // of the process, and of Node

/** Return the client's x-request-id if it is harmless in a log and in a header, else a new id. */
export function idOf(sent: unknown): string {
  return typeof sent === "string" && /^[\w.:+/=,-]{1,4096}$/.test(sent) ? sent : randomBytes(16).toString("hex");
}

export const since = (begin: number): number => (performance.now() - begin) / 1000;

export function log(message: string, fields: object = {}, level = "INFO", request_id: string | null = null): void {
  const time = new Date().toISOString().replace("Z", "+00:00");
  process.stdout.write(`${JSON.stringify({ time, level, request_id, message, ...fields })}\n`);
}

export function logRequest(request_id: string, took: number, fields: object): void {
  log("request", { ...fields, ms: Math.round(1e6 * took) / 1000 }, "INFO", request_id);
}

process.stdout.on("error", () => {}); // a log that nobody reads any more is no reason to fail a request
