"""What the service tells of itself: an id for each request, metrics for Prometheus, a JSON object a line in the log.

asgi-correlation-id and prometheus-fastapi-instrumentator do the first two for any application. They were measured to
take 24 and 34 microseconds, and a whole request takes 80 here. So a small middleware does it, with Prometheus's client.
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
from time import perf_counter

import orjson
from prometheus_client import REGISTRY, CollectorRegistry, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5]
REQUESTS = Histogram(
    "http_request_duration_seconds", "From request to reply", ["method", "route", "status"], buckets=SECONDS
)

PROBES = ("/livez", "/readyz", "/metrics", "/services")  # asked every few seconds; in the log if they fail

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def metrics() -> bytes:
    """All metrics as Prometheus reads them; of all workers, if there are several."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry := CollectorRegistry())
    return generate_latest(registry)


class Telemetry:
    """ASGI middleware: each request gets an id, is measured, and leaves a line in the log."""

    def __init__(self, app, max_id: int = 4096):
        self.app, self.max_id = app, max_id  # characters: requests that share a call send the ids of all

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin, status = perf_counter(), 500  # what the client gets if the application fails
        own_id = id_of(scope["headers"], self.max_id)
        request_id.set(own_id)

        async def send_with_id(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", own_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            took = perf_counter() - begin
            # The route, not the path: clients make up paths without end, and each label is kept for ever.
            route = getattr(scope.get("route"), "path", "other")
            REQUESTS.labels(scope["method"], route, status).observe(took)
            if status >= 400 or route not in PROBES:
                line = {"time": datetime.now(UTC), "level": "INFO", "request_id": own_id, "message": "request"}
                line |= {"client": scope["client"] and scope["client"][0], "method": scope["method"]}
                log_lines.write(line | {"path": scope["path"][:200], "status": status, "ms": round(1000 * took, 3)})


def id_of(headers: list[tuple[bytes, bytes]], longest: int) -> str:
    """The client's X-Request-ID, if it can do no harm in a log or a header, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and len(value) <= longest and re.fullmatch(rb"[\w.:+/=,-]+", value):
            return value.decode()
    return os.urandom(16).hex()


class LogLines:
    """Lines for standard output, written several at a time, at most as many as a pipe takes in one piece.

    To write is to let go of Python's global lock and win it back from the thread that predicts: with a line at a time,
    that was measured to take a third of a request's time.
    """

    def __init__(self, at_once: int = 4096, delay: float = 0.1):  # bytes, seconds
        self._lines, self._size, self._at_once, self._delay = [], 0, at_once, delay

    def write(self, line: dict) -> None:
        if not self._lines:  # an almost idle service writes its line soon, too
            asyncio.get_running_loop().call_later(self._delay, self.flush)
        text = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        if self._size + len(text) > self._at_once:
            self.flush()
        self._lines.append(text.decode())
        self._size += len(text)

    def flush(self) -> None:
        lines, self._lines, self._size = self._lines, [], 0
        with contextlib.suppress(OSError):  # a full disk is no reason to fail a request
            sys.stdout.write("".join(lines))
            sys.stdout.flush()


log_lines = LogLines()


class JsonFormatter(logging.Formatter):
    """Other lines of the log, those of libraries included."""

    def format(self, record: logging.LogRecord) -> str:
        line = {"time": datetime.fromtimestamp(record.created, UTC).isoformat(), "level": record.levelname}
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
