// The Open Inference Protocol over gRPC, and the standard health service. What each call gets is in `answer`.

import { join } from "node:path";
import * as grpc from "@grpc/grpc-js";
import type { MethodDefinition, ServiceDefinition } from "@grpc/proto-loader";
import { loadSync } from "@grpc/proto-loader";
import { NAME } from "./contract.ts";
import { N_FEATURES } from "./model.ts";
import type { Service } from "./service.ts";
import type { Settings } from "./settings.ts";
import { CALLS, idOf, log, logRequest, since } from "./telemetry.ts";
import { CallError, chooseOutputs, describeOutputs, type InferRequest, readRows, writeOutputs } from "./tensors.ts";

const VERSION = "1";
const INFERENCE = "inference.GRPCInferenceService";
const STOP_SECONDS = 30;
const PROBES = ["ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "Check"]; // logged only if they fail

grpc.setLogVerbosity(grpc.logVerbosity.NONE); // its lines are not JSON, and what matters is thrown

const protos = ["open_inference.proto", "health.proto"].map((name) => join(import.meta.dirname, name));
const definitions = loadSync(protos, { keepCase: true, longs: String, defaults: true });
const protocol = definitions[INFERENCE] as ServiceDefinition;
const health = definitions["grpc.health.v1.Health"] as ServiceDefinition;

type Call = grpc.ServerUnaryCall<Buffer, object>;
type Method = (request: any, call: Call) => object | Promise<object>; // of the type that the .proto says
type Watch = grpc.ServerWritableStream<{ service: string }, object>;

/** Answer calls at GRPC_PORT. Returns the address, and a function that finishes the calls in flight. */
export async function serve(service: Service, settings: Settings): Promise<{ address: string; stop(): Promise<void> }> {
  const server = new grpc.Server({
    "grpc.max_receive_message_length": settings.maxBodyBytes,
    // A client that connects again also finds new replicas.
    "grpc.max_connection_age_ms": Math.round(1000 * settings.maxConnectionAgeSeconds),
    "grpc.max_connection_age_grace_ms": 1000 * STOP_SECONDS,
  });
  const watches = new Set<Watch>();
  const statusOf = (name: string): string => {
    if (name !== "" && name !== INFERENCE) return "SERVICE_UNKNOWN";
    return service.model && !service.leaving ? "SERVING" : "NOT_SERVING";
  };

  for (const [name, method] of Object.entries(methods(service))) register(server, protocol[name]!, name, method);
  register(server, health.Check!, "Check", ({ service: name }) => {
    const status = statusOf(name);
    if (status === "SERVICE_UNKNOWN") throw new CallError(grpc.status.NOT_FOUND, "");
    return { status };
  });
  const { path, responseSerialize, requestDeserialize } = health.Watch!;
  const watch = (call: Watch): void => {
    watches.add(call);
    call.on("cancelled", () => watches.delete(call));
    call.write({ status: statusOf(call.request.service) });
  };
  server.register(path, watch, responseSerialize, requestDeserialize as (bytes: Buffer) => any, "serverStream");

  const host = settings.host.includes(":") ? `[${settings.host}]` : settings.host;
  const bind = (address: string): Promise<number> =>
    new Promise((resolve, reject) => {
      const done = (error: Error | null, port: number): void => (error ? reject(error) : resolve(port));
      server.bindAsync(address, grpc.ServerCredentials.createInsecure(), done);
    });
  const port = await bind(`${host}:${settings.grpcPort}`);

  async function stop(): Promise<void> {
    for (const call of watches) {
      call.write({ status: statusOf(call.request.service) });
      call.end(); // such a client would stay
    }
    const late = setTimeout(() => server.forceShutdown(), 1000 * STOP_SECONDS);
    await new Promise((resolve) => server.tryShutdown(resolve));
    clearTimeout(late);
  }
  return { address: `${host}:${port}`, stop };
}

function methods(service: Service): Record<string, Method> {
  return {
    ServerLive: () => ({ live: true }),
    ServerReady: () => ({ ready: service.model !== undefined }),
    ServerMetadata: () => ({ name: "inferir", version: VERSION }),
    ModelReady: ({ name, version }) => {
      requireKnown(name, version);
      return { ready: service.model !== undefined };
    },
    ModelMetadata: ({ name, version }) => {
      requireKnown(name, version);
      const outputs = describeOutputs(service.requireModel());
      const inputs = [{ name: "features", datatype: "FP32", shape: [-1, N_FEATURES] }];
      return { name: NAME, versions: [VERSION], platform: "onnx_onnxv1", inputs, outputs };
    },
    ModelInfer: async (request: InferRequest, call) => {
      requireKnown(request.model_name, request.model_version);
      const model = service.requireModel();
      const wanted = chooseOutputs(request, model);
      const isGone = (): boolean => call.cancelled || Number(call.getDeadline()) <= Date.now();
      const answer = await service.predict(readRows(request), isGone);
      return {
        model_name: NAME,
        model_version: VERSION,
        id: request.id,
        parameters: { version: { string_param: model.version }, format: { string_param: "onnx" } },
        ...writeOutputs(wanted, answer),
      };
    },
  };
}

function requireKnown(name: string, version: string): void {
  if (name !== NAME || !["", VERSION].includes(version)) {
    throw new CallError(grpc.status.NOT_FOUND, `there is no such model: ask for ${NAME}, version ${VERSION}`);
  }
}

type Definition = MethodDefinition<object, object>;

/** Add a method. It gets the message in bytes, so that a damaged one is explained like any other error. */
function register(server: grpc.Server, definition: Definition, label: string, method: Method): void {
  const handler: grpc.handleUnaryCall<Buffer, object> = (call, respond) => {
    void answer(call, respond, label, async () => method(decode(definition, call.request), call));
  };
  server.register(definition.path, handler, definition.responseSerialize, (bytes: Buffer) => bytes, "unary");
}

/** Give a call an id, a status code and a sentence if it fails, a measurement, a line in the log. */
async function answer(call: Call, respond: grpc.sendUnaryData<object>, label: string, work: () => Promise<object>) {
  const [begin, id, trailer] = [performance.now(), idOf(call.metadata.get("x-request-id")[0]), new grpc.Metadata()];
  trailer.set("x-request-id", id);
  let code = grpc.status.OK;
  try {
    const response = await work();
    if (call.cancelled) code = grpc.status.CANCELLED;
    respond(null, response, trailer);
  } catch (error) {
    if (!(error instanceof CallError)) {
      const traceback = error instanceof Error ? error.stack : String(error);
      log(`${call.getPath()} has failed`, { traceback }, "ERROR", id);
    }
    const bug = "the service has failed on this request; its log says how";
    code = error instanceof CallError ? error.code : grpc.status.INTERNAL;
    respond({ code, details: error instanceof CallError ? error.message : bug, metadata: trailer });
  }
  const took = since(begin);
  CALLS.observe({ code: grpc.status[code], method: label }, took);
  if (code !== grpc.status.OK || !PROBES.includes(label)) {
    logRequest(id, took, { client: clientOf(call), method: call.getPath().slice(0, 200), code: grpc.status[code] });
  }
}

/** The address of a client, as other gRPC libraries write it. */
function clientOf(call: Call): string {
  const [, address = "", port] = /^(.*):(\d+)$/.exec(call.getPeer()) ?? [];
  return address.includes(":") ? `ipv6:%5B${address}%5D:${port}` : `ipv4:${address}:${port}`;
}

function decode({ requestDeserialize }: Definition, bytes: Buffer): object {
  try {
    // protobufjs reads a string in a Buffer beyond the end of a message, but not in another Uint8Array.
    return requestDeserialize(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length) as Buffer);
  } catch {
    throw new CallError(grpc.status.INVALID_ARGUMENT, "the message is not the one that this method takes");
  }
}
