// Tensors in gRPC messages: read the features of a request, choose, describe and write the outputs of the model.

import { status } from "@grpc/grpc-js";
import { CLASSES, HIGH, LOW } from "./contract.ts";
import { type Answer, type ModelInfo, N_FEATURES } from "./model.ts";
import { count, quote, short } from "./words.ts";

const MAX_ROWS = 1024;
const DATATYPE = CLASSES === null ? "FP64" : typeof CLASSES[0] === "string" ? "BYTES" : "INT64"; // of a prediction
const NUMBER =
  LOW === null && HIGH === null ? "a number"
  : HIGH === null ? `a number of at least ${short(LOW!)}`
  : LOW === null ? `a number of at most ${short(HIGH)}`
  : `a number from ${short(LOW)} to ${short(HIGH)}`;

/** A call gets a status code and a sentence instead of a response. */
export class CallError extends Error {
  code: status;

  constructor(code: status, sentence: string) {
    super(sentence.toWellFormed()); // half a character, from the middle of a text, cannot be sent
    this.code = code;
  }
}

const invalid = (sentence: string): CallError => new CallError(status.INVALID_ARGUMENT, sentence);

export interface InferRequest {
  model_name: string;
  model_version: string;
  id: string;
  inputs: { name: string; datatype: string; shape: string[]; contents: { fp32_contents: number[] } | null }[];
  outputs: { name: string }[];
  raw_input_contents: Buffer[];
}

interface Output {
  name: string;
  datatype: string;
  shape: number[]; // -1: any number
}

/** Return the features, row after row. Raises CallError if something is wrong. */
export function readRows({ inputs, raw_input_contents: raw }: InferRequest): Float32Array {
  const [tensor] = inputs;
  if (inputs.length !== 1 || tensor?.name !== "features") {
    throw invalid("inputs: send one tensor, with the name features");
  }
  const { datatype, contents } = tensor;
  const shape = `[${tensor.shape.slice(0, 4).join(", ")}]`;
  const [rows, columns] = tensor.shape.map(Number) as [number, number];
  if (datatype !== "FP32") throw invalid(`inputs[0].datatype must be FP32, not ${quote(datatype.slice(0, 20))}`);
  if (tensor.shape.length !== 2 || rows < 1 || columns !== N_FEATURES) {
    throw invalid(`inputs[0].shape must be [n, ${N_FEATURES}] with at least one row, not ${shape}`);
  }
  if (rows > MAX_ROWS) throw invalid(`a batch has at most ${count(MAX_ROWS)} rows: send several batches`);
  if (raw.length + Number(contents !== null) !== 1) {
    throw invalid("send the numbers once: in inputs[0].contents or in raw_input_contents");
  }

  const size = rows * N_FEATURES;
  const [bytes, numbers] = [raw[0], contents?.fp32_contents ?? []];
  if (bytes && bytes.length !== 4 * size) {
    throw invalid(`raw_input_contents[0] has ${count(bytes.length)} bytes, and ${shape} takes ${count(4 * size)}`);
  }
  if (!bytes && numbers.length !== size) {
    throw invalid(`inputs[0].contents.fp32_contents has ${count(numbers.length)} numbers, which is not ${shape}`);
  }
  const flat = bytes ? new Float32Array(new Uint8Array(bytes).buffer) : Float32Array.from(numbers);
  const place = flat.findIndex((number) => !isValid(number));
  if (place >= 0) {
    const where = `features[${Math.floor(place / N_FEATURES)}][${place % N_FEATURES}]`;
    throw invalid(`${where} must be ${NUMBER}, not ${short(flat[place]!)}`);
  }
  return flat;
}

function isValid(number: number): boolean {
  return Number.isFinite(number) && (LOW === null || number >= LOW) && (HIGH === null || number <= HIGH);
}

export function describeOutputs(model: ModelInfo): Output[] {
  const prediction = { name: "prediction", datatype: DATATYPE, shape: [-1] };
  const probabilities = { name: "probabilities", datatype: "FP32", shape: [-1, CLASSES?.length ?? 0] };
  return model.hasProbabilities ? [prediction, probabilities] : [prediction];
}

/** Return the outputs that the client wants, all if it names none. Raises CallError. */
export function chooseOutputs(request: InferRequest, model: ModelInfo): Output[] {
  const outputs = describeOutputs(model);
  const known = outputs.map(({ name }) => name);
  const wanted = request.outputs.slice(0, outputs.length + 1).map(({ name }) => name);
  if (wanted.length > outputs.length || !wanted.every((name) => known.includes(name))) {
    throw invalid(`outputs: ask for ${known.join(" and ")}, or for none to get all`);
  }
  return wanted.length ? outputs.filter(({ name }) => wanted.includes(name)) : outputs;
}

/** The outputs of a response and their numbers, little-endian; a text stands after its length in four bytes. */
export function writeOutputs(wanted: Output[], { predictions, probabilities }: Answer) {
  return {
    outputs: wanted.map((output) => ({ ...output, shape: [predictions.length, ...output.shape.slice(1)] })),
    raw_output_contents: wanted.map(({ name }) =>
      name === "prediction" ? writePredictions(predictions) : Buffer.from(probabilities!.buffer),
    ),
  };
}

function writePredictions(predictions: (number | string)[]): Buffer {
  if (DATATYPE === "FP64") return Buffer.from(Float64Array.from(predictions as number[]).buffer);
  if (DATATYPE === "INT64") return Buffer.from(BigInt64Array.from(predictions as number[], BigInt).buffer);
  const texts = predictions.map((text) => Buffer.from(String(text)));
  return Buffer.concat(texts.flatMap((text) => [Buffer.from(Uint32Array.of(text.length).buffer), text]));
}
