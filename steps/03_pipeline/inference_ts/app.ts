// Serve the model that Python has trained: the Open Inference Protocol over gRPC, probes and metrics over HTTP.

import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { serve } from "./grpc_server.ts";
import { createProbes } from "./http_server.ts";
import { Service } from "./service.ts";
import { readSettings, refuse } from "./settings.ts";
import { log } from "./telemetry.ts";

const settings = readSettings();
const service = new Service(settings);
await service.start();

const grpc = await serve(service, settings).catch((error: Error) =>
  cannotListen(error, "gRPC", "GRPC_PORT", settings.grpcPort),
);
log(`gRPC running on ${grpc.address}`);
const http = createProbes(service).listen(settings.port, settings.host);
await once(http, "listening").catch((error) => cannotListen(error, "HTTP", "PORT", settings.port));
log(`HTTP running on ${withPort((http.address() as AddressInfo).port)}`);

for (const signal of ["SIGTERM", "SIGINT", "SIGBREAK"] as const) process.once(signal, stop);

/** Take no new calls, finish those in flight, then end: nothing is left to do. */
async function stop(): Promise<void> {
  service.leaving = true; // /readyz says so meanwhile
  await grpc.stop();
  await service.stop();
  http.close();
  http.closeAllConnections();
}

function withPort(port: number): string {
  return settings.host.includes(":") ? `[${settings.host}]:${port}` : `${settings.host}:${port}`;
}

function cannotListen(error: Error, what: string, setting: string, port: number): never {
  if (!String(error).includes("EADDRINUSE")) {
    const reason = /E[A-Z]+: ([a-z ]+)/.exec(error.message)?.[1]?.trim() ?? error.message;
    refuse("HOST", `this machine cannot listen there (${reason}). Unset HOST, or set it to 127.0.0.1`);
  }
  log(`${what} cannot listen on ${withPort(port)}: stop the program that does, or change ${setting}`, {}, "ERROR");
  process.exit(1);
}
