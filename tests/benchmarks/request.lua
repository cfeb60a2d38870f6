-- What wrk sends, and what it tells at the end: one line of JSON. BODY_FILE names the file to send.

wrk.method = "POST"
wrk.path = "/inferir"
wrk.headers["Content-Type"] = os.getenv("CONTENT_TYPE") or "application/json"

local file = assert(io.open(os.getenv("BODY_FILE"), "rb"))
wrk.body = file:read("*a")
file:close()

function done(summary, latency)
  local seconds, errors = summary.duration / 1e6, summary.errors -- wrk counts in microseconds
  io.write(string.format(
    '{"requests": %d, "rate": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, ' ..
    '"errors": {"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}}\n',
    summary.requests, summary.requests / seconds, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout
  ))
end
