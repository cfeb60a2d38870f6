"""A real message broker, the way to it, and another client of it, which plays storage's part."""

import json
import os
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import nats
from anyio.from_thread import start_blocking_portal
from nats.js.api import DiscardPolicy, RetentionPolicy, StreamConfig


def find_program() -> str | None:
    """The path of nats-server, beside Python or on the PATH."""
    return shutil.which("nats-server", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))


class Broker:
    """A process that can be killed and started again, with its data. `settings` are lines of its configuration."""

    def __init__(self, program: str, folder: Path):
        self.program, self.folder, self.settings = program, folder, ["max_payload: 4MB"]
        self.disk = "jetstream {sync_interval: always}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url, self.process = f"nats://127.0.0.1:{self.port}", None

    def configure(self) -> None:
        (self.folder / "nats.conf").write_text("\n".join([*self.settings, self.disk]), encoding="utf-8")

    def start(self) -> None:
        self.configure()
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


class Way:
    """A way to the broker. What comes back from it is held up while `back` is not set, and all can be cut."""

    def __init__(self, broker: Broker):
        self._goal, self._listener = ("127.0.0.1", broker.port), socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self.back = threading.Event()
        self.back.set()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._goal)
                self._connections += [near, far]
                for source, goal, wait in ((near, far, bool), (far, near, self.back.wait)):
                    threading.Thread(target=carry, args=[source, goal, wait], daemon=True).start()

    def cut(self) -> None:
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()
        self.back.set()


def carry(source: socket.socket, goal: socket.socket, wait: Callable) -> None:
    with suppress(OSError), source, goal:
        while data := source.recv(65_536):
            wait()
            goal.sendall(data)


class Peer:
    """A client in a thread of its own."""

    def __init__(self, url: str):
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        self._client = self.call(nats.connect, url, error_cb=ignore, reconnect_time_wait=0.05)
        self._stream = self._client.jetstream()

    def call(self, function: Callable, *arguments, **options):
        return self._portal.call(partial(function, *arguments, **options))

    def make_stream(self, name: str = "RESULTS", max_bytes: int = 100_000_000) -> None:
        """As storage makes it."""
        policies = {"retention": RetentionPolicy.WORK_QUEUE, "discard": DiscardPolicy.NEW}
        config = StreamConfig(name=name, subjects=["results"], max_bytes=max_bytes, duplicate_window=120, **policies)
        self.call(self._stream.add_stream, config)

    def stream(self, name: str = "RESULTS"):
        return self.call(self._stream.stream_info, name)

    def messages(self) -> list:
        """Those in the queue, oldest first; they stay there."""
        state = self.stream().state
        numbers = range(state.first_seq, state.last_seq + 1) if state.messages else []
        return [self.call(self._stream.get_msg, "RESULTS", number) for number in numbers]

    def results(self) -> list[dict]:
        return [result for message in self.messages() for result in json.loads(message.data)["results"]]

    def purge(self, stream: str = "RESULTS") -> None:
        self.call(self._stream.purge_stream, stream)

    def delete(self, stream: str) -> None:
        self.call(self._stream.delete_stream, stream)

    def delete_keys(self, bucket: str) -> None:
        """As an operator does with the tools of NATS: a mark stays behind."""
        values = self.call(self._stream.key_value, bucket)
        for key in self.call(values.keys):
            self.call(values.delete, key)

    def answer(self, subject: str, content, status: int | None = 200) -> list:
        """Answer what is asked on a subject: bytes, JSON, or nothing. Returns a list, where the questions will be."""
        asked = []

        async def reply(message):
            asked.append(message)
            if content is None:
                return
            headers = None if status is None else {"Status": str(status)}
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            await self._client.publish(message.reply, body, headers=headers)

        async def subscribe():
            await self._client.subscribe(subject, cb=reply)
            await self._client.flush()

        self.call(subscribe)
        return asked

    def close(self) -> None:
        self.call(self._client.close)
        self._stack.close()


async def ignore(error: Exception) -> None:
    pass


def wait_until(condition: Callable[[], bool], timeout: float = 10, pause: float = 0.02) -> None:
    """Return when the condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout} s"
        time.sleep(pause)
