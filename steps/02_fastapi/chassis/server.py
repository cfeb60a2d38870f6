"""Run uvicorn so that it loses no request when it shuts down, and no body of a client that offers another protocol."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from typing import Any, Protocol

import httptools
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import multiprocess

from chassis.telemetry import LOGGING

MAX_HEAD_BYTES, MAX_PIPELINED = 65_536, 16  # of a request; requests that wait on a connection for the one before


class ServerSettings(Protocol):
    """What a service's settings must have."""

    host: str
    port: int
    workers: int
    drain_seconds: float
    keep_alive_seconds: float


class Config(uvicorn.Config):
    """uvicorn's configuration, and how long a server waits for its clients to go. Workers get it too."""

    def __init__(self, app: str | ASGIApp, *, drain_seconds: float, **options: Any):
        super().__init__(app, **options)
        self.drain_seconds = drain_seconds


class HttpProtocol(HttpToolsProtocol):
    """HTTP that limits what a client may keep us waiting with, and ignores the offer of another protocol.

    uvicorn with httptools limits neither the head of a request, nor trailers, nor how many requests wait on a
    connection, nor how long a request may stay incomplete.

    An offer is `Upgrade: h2c` from curl --http2 and Java's HttpClient. The parser stops at it, and uvicorn would read
    the body as the next request (https://github.com/encode/uvicorn/discussions/2722). So the head is parsed again,
    without the offer.
    """

    _read = _rest = b""
    _extra = 0  # bytes since the last head, piece of a body or end of a request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._wait_for_client()

    def data_received(self, data: bytes) -> None:
        self._extra += len(data)
        self._rest = data
        while self._rest and not self.transport.is_closing():
            self._read, self._rest = self._rest, b""
            super().data_received(self._read)
        if self._extra > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of the request has more than {MAX_HEAD_BYTES:,} bytes.")
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            self._wait_for_client()

    def on_headers_complete(self) -> None:
        self._extra = 0
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests wait on this connection")  # uvicorn answers 400, and closes it
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._extra = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._extra = 0
        super().on_message_complete()

    def _wait_for_client(self) -> None:
        """Close the connection if nothing comes for as long as an idle one is kept."""
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        if self.flow.read_paused:  # the client waits for us
            self._wait_for_client()
        else:
            super().timeout_keep_alive_handler()

    def _should_upgrade(self) -> bool:
        # True: uvicorn does not answer yet, and calls handle_websocket_upgrade. CONNECT is no offer and stays as it is.
        return bool(self.parser.get_method() != b"CONNECT")

    def handle_websocket_upgrade(self) -> None:
        stopped = sys.exception()
        assert isinstance(stopped, httptools.HttpParserUpgrade)
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        head += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self._rest = b"\r\n".join([*head, b"", self._read[stopped.args[0] :]])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does


class Server(uvicorn.Server):
    """A server that lets its clients go before it closes their connections.

    On SIGTERM, uvicorn closes every kept connection that has no request in work. Under load, many of those hold a
    request that uvicorn has not read yet, and the request is lost. So this server first says `Connection: close` in
    every response, which sends clients elsewhere, and waits until they have gone, for at most `drain_seconds`.
    """

    config: Config

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.lifespan.state["leaving"] = True  # for /readyz
        self.server_state.default_headers.append((b"connection", b"close"))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.drain_seconds
        while self.server_state.connections and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


# uvicorn has no setting for the server class of its workers. A worker imports this module to read its Config.
multiprocess.Server = Server  # type: ignore[misc] # replaced on purpose


def check_root_path(path: str) -> str:
    """Return ROOT_PATH, the path under which a proxy serves the service. ValueError if it cannot be one."""
    if path and not path.startswith("/"):
        raise ValueError("a path is needed that begins with a slash, such as /digits")
    return path.rstrip("/")


class RootPath:
    """ASGI middleware: a proxy serves the service under a path of its own, and cuts that off or leaves it in front."""

    def __init__(self, app: ASGIApp, root_path: str):
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.root_path:
            path = scope["path"]
            if not path.startswith(self.root_path + "/"):
                path = self.root_path + path  # ASGI wants the whole path
            scope.update(path=path, root_path=self.root_path)  # in place: Telemetry, outside, reads the route from it
        await self.app(scope, receive, send)


def require_address(host: str) -> None:
    """End the program if this machine cannot listen at HOST. Other tools set HOST too: conda's compilers do."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(f"HOST is {host!r}: this machine cannot listen there ({reason}). Unset HOST, or set it to 127.0.0.1")


def run(factory: str, settings: ServerSettings) -> None:
    """Serve the application that `factory` ("module:function") makes, until a signal ends it."""
    require_address(settings.host)
    config = Config(
        factory,
        factory=True,
        drain_seconds=settings.drain_seconds,
        http=HttpProtocol,
        ws="none",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=False,  # telemetry.py writes one
        log_config=LOGGING,
        proxy_headers=False,  # the log shows the address that connected
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=30,  # seconds for answers that are being made
    )
    if settings.workers > 1:
        run_workers(config)
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    sys.exit(not server.started)


def run_workers(config: Config) -> None:
    """Run several worker processes. Ends the program when they have ended."""
    with tempfile.TemporaryDirectory() as folder:
        # Workers share their metrics through files in this folder. Without it, /metrics would show one worker's.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        workers = multiprocess.Multiprocess(config, sockets=[config.bind_socket()])
        workers.run()
    sys.exit(any(process.exitcode == STARTUP_FAILURE for process in workers.processes))
