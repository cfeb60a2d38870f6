"""A real message broker, and another client of it, which plays the gateway's part."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import nats
from anyio.from_thread import start_blocking_portal
from nats.js.errors import APIError


def find_program() -> str | None:
    """The path of nats-server, beside Python or on the PATH."""
    return shutil.which("nats-server", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))


class Broker:
    """A process that can be killed and started again, with its data. `settings` are lines of its configuration."""

    def __init__(self, program: str, folder: Path):
        self.program, self.folder = program, folder
        self.settings = ["max_payload: 4MB", "jetstream {sync_interval: always, max_file_store: 1GB}"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self.process = f"nats://127.0.0.1:{self.port}", None

    def start(self) -> None:
        (self.folder / "nats.conf").write_text("\n".join(self.settings), encoding="utf-8")
        command = [self.program, "-c", "nats.conf", "-a", "127.0.0.1", "-p", str(self.port), "-sd", "data"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, cwd=self.folder, **quiet)
        wait_until(self._greets)

    def _greets(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            return connection.recv(4) == b"INFO"
        return False

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self.process.terminate()
        self.process.wait(10)
        self.process = None

    def forget(self) -> None:
        """Lose all data, while it is not running."""
        shutil.rmtree(self.folder / "data")


class Peer:
    """A client in a thread of its own, which connects again when the broker is back."""

    def __init__(self, url: str):
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        options = {"error_cb": ignore, "reconnect_time_wait": 0.05, "max_reconnect_attempts": -1}
        self._client = self.call(nats.connect, url, **options)
        self.jetstream = self._client.jetstream()

    def call(self, function: Callable, *arguments, **options):
        return self._portal.call(partial(function, *arguments, **options))

    def send(self, *bodies: bytes, timeout: float = 30, **headers: str) -> None:
        """Return when the broker has acknowledged all of them."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()} or None

        async def send_all():
            sending = [self.jetstream.publish("results", body, headers=headers, timeout=timeout) for body in bodies]
            await asyncio.gather(*sending)

        self.call(send_all)

    def send_results(self, *results: dict, **headers: str) -> None:
        self.send(json.dumps({"results": results}).encode(), **headers)

    def stream(self):
        return self.call(self.jetstream.stream_info, "RESULTS")

    def consumer(self):
        return self.call(self.jetstream.consumer_info, "RESULTS", "storage")

    def wait_for_stream(self) -> None:
        """Return when storage has connected."""
        wait_until(lambda: self._there(self.consumer))

    def wait_until_empty(self, timeout: float = 30) -> None:
        wait_until(lambda: self._there(self.stream) and self.stream().state.messages == 0, timeout)

    def _there(self, look: Callable) -> bool:
        with suppress(APIError, nats.errors.Error):
            return bool(look())
        return False

    def is_connected(self) -> bool:
        with suppress(nats.errors.Error):
            self.call(self._client.flush, 1)
            return True
        return False

    def close(self) -> None:
        self.call(self._client.close)
        self._stack.close()


async def ignore(error: Exception) -> None:
    pass


def wait_until(condition: Callable[[], object], timeout: float = 15, pause: float = 0.02) -> None:
    """Return when the condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout} s"
        time.sleep(pause)
