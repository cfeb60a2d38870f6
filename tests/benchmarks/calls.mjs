// A gRPC client that costs little: node calls.mjs PORT CALLERS SECONDS FILE, where FILE holds a message in bytes.
// Each caller sends its next call when the last is answered; all share a connection. Prints milliseconds, as JSON.

import { connect } from "node:http2";
import { readFileSync } from "node:fs";

const [port, callers, seconds, file] = process.argv.slice(2);
const message = readFileSync(file);
const head = Buffer.alloc(5);
head.writeUInt32BE(message.length, 1);
const body = Buffer.concat([head, message]);
const headers = {
  ":method": "POST",
  ":path": "/inference.GRPCInferenceService/ModelInfer",
  "content-type": "application/grpc",
  te: "trailers",
};
const session = connect(`http://127.0.0.1:${port}`);

function call() {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers);
    let status, size = 0;
    stream.on("data", (chunk) => (size += chunk.length));
    stream.on("trailers", (trailers) => (status = trailers["grpc-status"]));
    stream.on("error", reject);
    stream.on("close", () => (status === "0" && size > 5 ? resolve() : reject(new Error(`status ${status}`))));
    stream.end(body);
  });
}

const took = [];
const end = performance.now() + 1000 * seconds;
async function ask() {
  for (let begin = performance.now(); begin < end; begin = performance.now()) {
    await call();
    took.push(performance.now() - begin);
  }
}
await Promise.all(Array.from({ length: callers }, ask));
session.close();
took.sort((one, other) => one - other);
const at = (share) => took[Math.floor(share * (took.length - 1))];
console.log(JSON.stringify({ calls: took.length, p50: at(0.5), p99: at(0.99) }));
