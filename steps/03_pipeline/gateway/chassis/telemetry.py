"""Give each request an id, measure it for Prometheus, and log it as one line of JSON.

asgi-correlation-id and prometheus-fastapi-instrumentator do the first two for any application. They were measured at 24
and 34 microseconds a request, of 80 for a whole request here. So a small middleware does it, with Prometheus's client.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from time import perf_counter
from typing import Any

import orjson
from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if not os.path.isdir(os.environ.get("PROMETHEUS_MULTIPROC_DIR", ".")):  # the first metric would be a traceback
    sys.exit(f"PROMETHEUS_MULTIPROC_DIR is {os.environ['PROMETHEUS_MULTIPROC_DIR']!r}: there is no such folder")

SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]
REQUESTS = Histogram(
    "http_request_duration_seconds", "From request to response", ["method", "route", "status"], buckets=SECONDS
)
requests_like = cache(REQUESTS.labels)  # to look them up again takes as long as to count

PROBES = ("/livez", "/readyz", "/metrics", "/services")  # asked every few seconds; logged only if they fail

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def metrics() -> bytes:
    """Return all metrics as Prometheus reads them; if there are several workers, of all of them."""
    registry: CollectorRegistry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry := CollectorRegistry())
    return generate_latest(registry)


class Telemetry:
    """ASGI middleware: give each request an id, measure it, and write its line of the log.

    HEAD is answered as GET. Range is ignored, as HTTP allows: Starlette refuses units that it does not know.
    """

    def __init__(self, app: ASGIApp, max_id: int = 4096):
        self.app, self.max_id = app, max_id  # characters: requests that share a call send the ids of all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        method = scope["method"]
        if method in ("GET", "HEAD"):
            # FastAPI's GET routes do not take HEAD. uvicorn leaves the body out of the response.
            scope = {**scope, "method": "GET", "headers": [each for each in scope["headers"] if each[0] != b"range"]}
        begin, status = perf_counter(), 500  # what the client gets if the application fails
        own_id = id_of(scope["headers"], self.max_id)
        request_id.set(own_id)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", own_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            took = perf_counter() - begin
            # The route, not the path: clients can invent any number of paths, and each label is kept for ever.
            route = getattr(scope.get("route"), "path", "other")
            requests_like(method, route, status).observe(took)
            if status >= 400 or route not in PROBES:
                line = {
                    "time": datetime.now(UTC),
                    "level": "INFO",
                    "request_id": own_id,
                    "message": "request",
                    "client": scope["client"] and scope["client"][0],
                    "method": method,
                    "path": scope["path"][:200],
                    "status": status,
                    "ms": round(1000 * took, 3),
                }
                log_lines.write(line)


def id_of(headers: list[tuple[bytes, bytes]], longest: int) -> str:
    """Return the client's X-Request-ID if it is harmless in a log and in a header, else a new id."""
    for name, value in headers:
        if name == b"x-request-id" and len(value) <= longest and re.fullmatch(rb"[\w.:+/=,-]+", value):
            return value.decode()
    return os.urandom(16).hex()


class LogLines:
    """Lines for standard output, several in one write, and at most as many as a pipe takes in one piece.

    Each write gives Python's global lock to the thread that predicts, and waits to get it back: with one write a line,
    that took a third of a request's time. logging.handlers.MemoryHandler batches, too, but its LogRecords were measured
    to cost five times as much as a line here, which is more than a tenth of all requests a second.
    """

    AT_ONCE, DELAY = 4096, 0.1  # bytes in a write; seconds that a line waits

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._size = 0

    def write(self, line: dict[str, Any]) -> None:
        if not self._lines:  # so that a service with few requests writes its lines soon, too
            asyncio.get_running_loop().call_later(self.DELAY, self.flush)
        text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        if self._size + len(text) > self.AT_ONCE:
            self.flush()
        self._lines.append(text.decode())
        self._size += len(text)

    def flush(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        with contextlib.suppress(OSError):  # a full disk is no reason to fail a request
            try:
                sys.stdout.write("".join(lines))
            except UnicodeEncodeError:  # a console that does not know a character gets it as \u2603
                sys.stdout.write("".join(json.dumps(json.loads(line)) + "\n" for line in lines))
            sys.stdout.flush()


log_lines = LogLines()


class JsonFormatter(logging.Formatter):
    """Other lines of the log, also those of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str | None] = {"time": datetime.fromtimestamp(record.created, UTC).isoformat()}
        line["level"] = record.levelname
        line |= {"request_id": request_id.get(), "message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["stdout"], "level": "INFO"},
}
