// Load the model that train.py of the Python service has saved, only if it is what its manifest and contract.ts say.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { getSystemErrorMessage } from "node:util";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { CLASSES, FEATURES } from "./contract.ts";
import { count, json, quote } from "./words.ts";

export const FEATURE_NAMES =
  typeof FEATURES === "number" ? Array.from({ length: FEATURES }, (_, place) => `feature_${place}`) : FEATURES;
export const N_FEATURES = FEATURE_NAMES.length;
const TOLERANCE = 1e-4; // of the largest golden answer, as in Python

/** The model cannot be served. Clients can read the message, which says what to do; `cause` is for the log. */
export class ModelError extends Error {}
/** The model's answer cannot be sent to a client. */
export class AnswerError extends Error {}

export interface Answer {
  predictions: (number | string)[]; // one for each row
  probabilities: Float32Array | null; // of each class, row by row
}

export interface ModelInfo {
  version: string; // the head of the file's SHA-256
  hasProbabilities: boolean;
}

export interface Model extends ModelInfo {
  /** Answer float32 rows, one after the other in `rows`. Raises AnswerError if a number is not finite. */
  predict(rows: Float32Array): Promise<Answer>;
}

interface Golden {
  features: number[][];
  prediction: (number | string)[];
  probabilities: number[][] | null;
}

/** Return the model in `folder`, verified: contract, then hash, then golden answers. Raises ModelError. */
export async function load(folder: string): Promise<Model> {
  const { sha256, golden, python, numpy } = readManifest(folder);
  const content = read(folder, "model.onnx");
  // Hash the very bytes that are opened next.
  if (createHash("sha256").update(content).digest("hex") !== sha256) {
    throw new ModelError(
      "model.onnx is not the file that manifest.json describes (its SHA-256 differs), so it was not opened: " +
        "restore it from a copy that you trust, then restart",
    );
  }
  let model: Model, same: boolean;
  try {
    model = await open(content, golden.probabilities !== null, sha256.slice(0, 12));
    same = isSame(await model.predict(Float32Array.from(golden.features.flat())), golden);
  } catch (cause) {
    const kind = cause instanceof Error ? cause.name : "Error";
    throw new ModelError(`model.onnx does not work here (${kind}): run \`python train.py\`, then restart`, { cause });
  }
  if (!same) {
    throw new ModelError(
      "model.onnx no longer gives the golden rows in manifest.json the answers it gave after training " +
        `(with Python ${python}, NumPy ${numpy}): install those or run \`python train.py\`, then restart`,
    );
  }
  return model;
}

function readManifest(folder: string): { sha256: string; golden: Golden; python: string; numpy: string } {
  const content = read(folder, "manifest.json").toString();
  try {
    const { feature_names, classes, unsaved, sha256, golden, python, numpy } = JSON.parse(content);
    if (classes === undefined || !Array.isArray(feature_names)) throw new TypeError("a key is missing");
    checkContract(feature_names, classes);
    if (unsaved.onnx) {
      throw new ModelError(`the model could not be saved as model.onnx (${unsaved.onnx}): serve it with Python`);
    }
    if ([sha256.onnx, golden.features, golden.probabilities, python, numpy].includes(undefined)) {
      throw new TypeError("a key is missing");
    }
    return { sha256: sha256.onnx, golden, python, numpy };
  } catch (cause) {
    if (cause instanceof ModelError) throw cause;
    throw new ModelError("manifest.json is damaged: run `python train.py`, then restart", { cause });
  }
}

/** Raises ModelError if a model with these features and classes is not what contract.ts says. */
function checkContract(names: string[], classes: (number | string)[] | null): void {
  const other = names.findIndex((name, place) => name !== FEATURE_NAMES[place]);
  const kind = (each: (number | string)[] | null): string =>
    each === null ? "numbers (a regressor)" : `the classes ${json(each).slice(0, 60)}`;
  let difference: string;
  if (names.length !== N_FEATURES) {
    difference = `on ${count(names.length)} features, contract.ts says ${count(N_FEATURES)}`;
  } else if (other >= 0) {
    const [trained, said] = [json(names[other]).slice(0, 40), quote(FEATURE_NAMES[other]!)];
    difference = `with ${trained} as feature ${other}, contract.ts says ${said}`;
  } else if (json(classes) !== json(CLASSES)) {
    difference = `on ${kind(classes)}, contract.ts says ${kind(CLASSES)}`;
  } else return;
  throw new ModelError(
    `the model was trained ${difference}: correct contract.ts or train.py, then train and restart`,
  );
}

async function open(content: Buffer, hasProbabilities: boolean, version: string): Promise<Model> {
  // One thread: rows are few and small, and sharing them out to other threads costs more than it saves.
  const session = await InferenceSession.create(content, { intraOpNumThreads: 1, interOpNumThreads: 1 });
  const output = session.outputNames[hasProbabilities ? 1 : 0]!;

  async function predict(rows: Float32Array): Promise<Answer> {
    const input = new Tensor("float32", rows, [rows.length / N_FEATURES, N_FEATURES]);
    const found = await session.run({ X: input }, [output]);
    const { data } = found[output]!;
    if (CLASSES !== null && !hasProbabilities) {
      return { predictions: Array.from(data as ArrayLike<unknown>, asClass), probabilities: null };
    }
    const numbers = Float32Array.from(data as ArrayLike<number | bigint>, Number);
    if (!numbers.every(Number.isFinite)) {
      throw new AnswerError("the model answered with a number that is not finite: it cannot be used on these features");
    }
    return CLASSES === null
      ? { predictions: [...numbers], probabilities: null }
      : { predictions: likeliest(numbers, CLASSES), probabilities: numbers };
  }
  return { version, hasProbabilities, predict };
}

const asClass = (label: unknown): number | string => (typeof label === "string" ? label : Number(label));

function likeliest(probabilities: Float32Array, classes: (number | string)[]): (number | string)[] {
  const found = [];
  for (let row = 0; row < probabilities.length; row += classes.length) {
    let best = 0;
    for (let place = 1; place < classes.length; place++) {
      if (probabilities[row + place]! > probabilities[row + best]!) best = place;
    }
    found.push(classes[best]!);
  }
  return found;
}

function isSame({ predictions, probabilities }: Answer, golden: Golden): boolean {
  const same = CLASSES === null ? isClose(predictions as number[], golden.prediction as number[])
    : predictions.length > 0 && json(predictions) === json(golden.prediction);
  return same && (probabilities === null || isClose([...probabilities], golden.probabilities!.flat()));
}

function isClose(numbers: number[], expected: number[]): boolean {
  const largest = TOLERANCE * expected.reduce((most, number) => Math.max(most, Math.abs(number)), 0);
  const close = (number: number, place: number): boolean => Math.abs(number - expected[place]!) <= largest;
  return numbers.length > 0 && numbers.length === expected.length && numbers.every(close);
}

function read(folder: string, name: string): Buffer {
  try {
    return readFileSync(join(folder, name));
  } catch (cause) {
    const reason = getSystemErrorMessage((cause as NodeJS.ErrnoException).errno ?? 0);
    const said = reason.charAt(0).toUpperCase() + reason.slice(1);
    throw new ModelError(`${name} cannot be read (${said}): run \`python train.py\`, then restart`, { cause });
  }
}
