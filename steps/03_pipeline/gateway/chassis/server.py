"""uvicorn, made to leave without losing a request."""

import asyncio
import contextlib
import os
import sys
import tempfile

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from chassis.telemetry import LOGGING
from settings import Settings, read_settings


class Server(uvicorn.Server):
    """A server that lets its clients go before it closes their connections.

    When it is told to end, uvicorn closes every kept connection on which it is not answering just then. Under load,
    many of those hold a request that it has not read yet, and the request is lost. So first every reply says
    `Connection: close`, which sends clients elsewhere, until they have gone, or for DRAIN_SECONDS.
    """

    async def shutdown(self, sockets=None) -> None:
        self.lifespan.state["leaving"] = True  # for /readyz
        self.server_state.default_headers.append((b"connection", b"close"))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + read_settings().drain_seconds
        while self.server_state.connections and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


# What a worker process makes: uvicorn has no setting for it. A worker imports app.py, and so this, before it does.
multiprocess.Server = Server


def run(factory: str, settings: Settings) -> None:
    """Serve the application that `factory` ("module:function") makes, until a signal ends it."""
    config = uvicorn.Config(
        factory,
        factory=True,
        http="httptools",
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=False,  # telemetry.py writes one
        log_config=LOGGING,
        proxy_headers=False,  # the log tells who connected
        server_header=False,
        timeout_graceful_shutdown=30,  # seconds for answers that are being made
    )
    if settings.workers > 1:
        # Workers share their metrics by files in this folder; /metrics would tell those of one worker otherwise.
        with tempfile.TemporaryDirectory() as os.environ["PROMETHEUS_MULTIPROC_DIR"]:
            workers = multiprocess.Multiprocess(config, sockets=[config.bind_socket()])
            workers.run()
        sys.exit(any(process.exitcode == STARTUP_FAILURE for process in workers.processes))
    server = Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    sys.exit(not server.started)
