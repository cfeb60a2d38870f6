// The settings of the service, all of them environment variables: those of the Python service that have a use here.

import { join } from "node:path";
import { quote } from "./words.ts";

interface Range {
  least?: number;
  above?: number;
  most?: number;
}

export type Settings = ReturnType<typeof readSettings>;

/** Read the environment, or end the program with a sentence that names the setting. */
export function readSettings() {
  const format = process.env.MODEL_FORMAT || "onnx";
  if (format !== "onnx") refuse("MODEL_FORMAT", "input should be 'onnx'");
  return {
    host: process.env.HOST || "127.0.0.1",
    port: whole("PORT", 8002, { least: 0, most: 65_535 }),
    grpcPort: whole("GRPC_PORT", 8012, { least: 0, most: 65_535 }),
    modelDir: process.env.MODEL_DIR || join(import.meta.dirname, "model"),
    maxBodyBytes: whole("MAX_BODY_BYTES", 1_000_000, { least: 1 }),
    maxBatch: whole("MAX_BATCH", 64, { least: 1 }), // rows that are predicted together
    maxQueue: whole("MAX_QUEUE", 4096, { least: 1 }), // rows that wait for that
    maxConnectionAgeSeconds: number("MAX_CONNECTION_AGE_SECONDS", 60, { above: 0, most: 86_400 }),
  };
}

function whole(name: string, usual: number, range: Range): number {
  const text = process.env[name];
  if (text && !/^\s*[+-]?\d+\s*$/.test(text)) {
    refuse(name, "input should be a valid integer, unable to parse string as an integer");
  }
  return number(name, usual, range);
}

function number(name: string, usual: number, { least, above, most }: Range): number {
  const value = Number(process.env[name] || usual);
  if (Number.isNaN(value)) refuse(name, "input should be a valid number, unable to parse string as a number");
  if (least !== undefined && value < least) refuse(name, `input should be greater than or equal to ${least}`);
  if (above !== undefined && value <= above) refuse(name, `input should be greater than ${above}`);
  if (most !== undefined && value > most) refuse(name, `input should be less than or equal to ${most}`);
  return value;
}

export function refuse(name: string, why: string): never {
  console.error(`${name} is ${quote(process.env[name] ?? "")}: ${why}`);
  process.exit(1);
}
