// HTTP for those who watch the service: /livez, /readyz, /metrics.

import { createServer, type Server } from "node:http";
import { register } from "prom-client";
import type { Service } from "./service.ts";
import { idOf, logRequest, REQUESTS, since } from "./telemetry.ts";

const PROBES = ["/livez", "/readyz", "/metrics"]; // logged only if they fail

/** Answer GET and HEAD at these three paths, everything else with {"error": "a sentence"}. */
export function createProbes(service: Service): Server {
  function answer(method: string, path: string): [number, object] {
    if (!PROBES.includes(path)) return [404, { error: `Not Found: ${method} ${path}` }];
    if (method !== "GET") return [405, { error: `Method Not Allowed: ${method} ${path}` }];
    if (path === "/livez") return [200, { status: "alive" }];
    if (!service.model) return [503, { error: service.problem }];
    return service.leaving ? [503, { error: "the service is shutting down" }] : [200, { status: "ready" }];
  }

  return createServer(async (request, response) => {
    const begin = performance.now();
    const method = request.method === "HEAD" ? "GET" : (request.method ?? "");
    const path = request.url?.split("?")[0] ?? "";
    const id = idOf(request.headers["x-request-id"]);
    response.setHeader("x-request-id", id);
    if (path === "/metrics" && method === "GET") {
      response.setHeader("content-type", register.contentType);
      response.end(await register.metrics());
    } else {
      const [status, body] = answer(method, path);
      if (status === 405) response.setHeader("allow", "GET");
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
    }
    const [status, took] = [response.statusCode, since(begin)];
    const route = PROBES.includes(path) ? path : "other"; // clients can invent any number of paths
    REQUESTS.observe({ method: request.method ?? "", route, status }, took);
    if (status >= 400 || route === "other") {
      const client = request.socket.remoteAddress;
      logRequest(id, took, { client, method: request.method, path: path.slice(0, 200), status });
    }
  });
}
