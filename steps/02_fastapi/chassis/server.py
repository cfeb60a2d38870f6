"""Run uvicorn so that it loses no request when it shuts down."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from typing import Any, Protocol

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from chassis.telemetry import LOGGING


class ServerSettings(Protocol):
    """What a service's settings must have."""

    host: str
    port: int
    workers: int
    drain_seconds: float


class Config(uvicorn.Config):
    """uvicorn's configuration, and how long a server waits for its clients to go. Workers get it too."""

    def __init__(self, app: str | ASGIApp, *, drain_seconds: float, **options: Any):
        super().__init__(app, **options)
        self.drain_seconds = drain_seconds


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


def run(factory: str, settings: ServerSettings) -> None:
    """Serve the application that `factory` ("module:function") makes, until a signal ends it."""
    config = Config(
        factory,
        factory=True,
        drain_seconds=settings.drain_seconds,
        http="httptools",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=False,  # telemetry.py writes one
        log_config=LOGGING,
        proxy_headers=False,  # the log shows the address that connected
        server_header=False,
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
