import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

STEP = Path(__file__).resolve().parent.parent
READY = r"^The pipeline is ready: http://127\.0\.0\.1:(\d+)$"
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")

# A service in a few lines. FAILS, STUBBORN and so on name the services that behave in that way.
STAND_IN = """
import json, os, signal, subprocess, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

name = Path(__file__).parent.name
does = lambda what: name in os.environ.get(what, "")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if does("UNREADY") else 200)
        self.end_headers()
        self.wfile.write(b'{"error": "the moon is in the way"}')
    def log_message(self, *_):
        pass

print(json.dumps({name: {key: os.environ.get(key) for key in json.loads(os.environ.get("SHOWN", "[]"))}}))
if does("FAILS"):
    sys.exit("the disk is full")
if does("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if does("WORKERS_OF"):
    print("worker", subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
if does("CHATTY"):
    line = 100 * name[0].encode() + b"\\n"
    for _ in range(1000):
        os.write(1, line + b"x\\xff" + b"\\n" + line)
ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
TRAIN = """
import os
from pathlib import Path

if os.environ.get("FAILS") == "train":
    raise SystemExit("no memory")
folder = Path(os.environ.get("MODEL_DIR") or Path(__file__).parent / "model")
folder.mkdir()
(folder / "manifest.json").write_text("{}")
print("trained")
"""


class Run:
    """`python run.py` on free ports. `lines` are those that it has printed."""

    def __init__(self, step: Path, arguments: tuple[str, ...], settings: dict[str, str], cwd: Path | None = None):
        self.lines: list[str] = []
        self.settings = settings
        self.process = subprocess.Popen(
            [sys.executable, step / "run.py", *arguments],
            cwd=cwd or step,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            # so that Windows can send it a Ctrl-Break
            **({"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {}),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, timeout: float = 60) -> re.Match:
        """Wait until a line matches, and return the match."""
        until = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text, re.MULTILINE)):
            assert time.monotonic() < until and (self.process.poll() is None or self._reader.is_alive()), self.text
            time.sleep(0.02)
        return found

    def pid(self, service: str) -> int:
        return int(self.wait_for(rf"^{service} +pid (\d+) ")[1])

    def ask(self, method: str = "POST", path: str = "/inferir") -> tuple[int, dict]:
        """Ask the gateway, and return the status and the body of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.settings["PORT"]), timeout=20)
        body = (STEP / "sample_request.json").read_bytes() if method == "POST" else None
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        answer = reply.status, json.loads(reply.read())
        connection.close()
        return answer

    def predict(self) -> dict:
        """Ask for a prediction, and return the reply."""
        status, reply = self.ask()
        assert (status, reply["prediction"]) == (200, [3])
        return reply

    def kill(self, service: str) -> None:
        os.kill(self.pid(service), getattr(signal, "SIGKILL", signal.SIGTERM))

    def interrupt(self) -> None:
        """As Ctrl-C does; on Windows only Ctrl-Break can be sent."""
        self.process.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGINT)

    def end(self, timeout: float = 20) -> int:
        """Wait until it has ended, its guard too, and return its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)  # the guard has the other end of this pipe
        assert not self._reader.is_alive(), self.text
        return code

    def is_gone(self) -> bool:
        """Tell, within some seconds, whether none of the services is there any more."""
        pids = [int(pid) for pid in re.findall(r"\b(?:pid|worker) (\d+)", self.text)]
        urls = " ".join(re.findall(r" pid \d+  (.*)", self.text))
        ports = [int(port) for port in re.findall(r"\w+://127.0.0.1:(\d+)", urls)]
        return eventually(lambda: not any(map(is_alive, pids)) and not any(map(is_taken, ports)))


def eventually(condition, timeout: float = 20) -> bool:
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    if os.name == "nt":  # there, os.kill would do what it says; the ports have to tell
        return False
    with suppress(OSError):
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/status")
        return not (status.exists() and "State:\tZ" in status.read_text())  # dead, init has not yet noticed
    return False


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# Below the ports that systems give to outgoing connections. No two are the same, nor ten apart, as inference has them.
# FREE_PORTS may name the first and the last, for tests that run side by side.
FIRST, LAST = map(int, os.environ.get("FREE_PORTS", "20000-29999").split("-"))
PORTS = itertools.cycle(random.sample(range(FIRST, LAST, 20), (LAST - FIRST) // 20))


def free_port() -> int:
    """A port that nothing listens on, and nothing ten below."""
    for port in PORTS:
        with socket.socket() as probe, socket.socket() as below, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            below.bind(("127.0.0.1", port - 10))
            return port


@pytest.fixture
def settings() -> dict[str, str]:
    return free_settings()


def free_settings() -> dict[str, str]:
    """Settings with free ports."""
    urls = {name: f"http://127.0.0.1:{free_port()}" for name in ("PREPROCESS_URL", "INFERENCE_URL", "STORAGE_URL")}
    return {"PORT": str(free_port()), **urls}


def free_wires() -> dict[str, str]:
    """Settings that take the place of those, for gRPC and a broker."""
    ports = {"grpc": free_port(), "nats": free_port()}
    inference, storage = (f"{scheme}://127.0.0.1:{port}" for scheme, port in ports.items())
    return {"INFERENCE_URL": inference, "STORAGE_URL": storage, "STORAGE_PORT": str(free_port())}


@pytest.fixture
def step(tmp_path) -> Path:
    """A copy of run.py beside stand-ins for the services, which start in no time."""
    folder = tmp_path / "step"
    for service in ("gateway", "preprocess", "inference", "storage"):
        (folder / service).mkdir(parents=True)
        (folder / service / "app.py").write_text(STAND_IN)
    (folder / "inference" / "train.py").write_text(TRAIN)
    shutil.copy(STEP / "run.py", folder)
    (folder / "broker").mkdir()
    shutil.copy(STEP / "broker" / "nats.conf", folder / "broker")
    return folder


@contextmanager
def reaped():
    """A function that runs run.py; at the end of the block, what it has started is gone."""
    runs = []

    def start_run(*arguments, **options) -> Run:
        runs.append(Run(*arguments, **options))
        return runs[-1]

    yield start_run
    for run in runs:
        run.process.kill()
    for run in runs:
        run.end()
        run.process.stdout.close()
        assert run.is_gone(), run.text


@pytest.fixture
def run(step, settings):
    """A function that runs the pipeline of stand-ins."""
    with reaped() as start_run:
        yield lambda *arguments, cwd=None, **more: start_run(step, arguments, {**settings, **more}, cwd)


@pytest.fixture(scope="session")
def start_run():
    with reaped() as start_run:
        yield start_run


@pytest.fixture(scope="session")
def real(start_run, tmp_path_factory):
    """The pipeline as it is, with a database of its own, and a copy of its model: to train one takes a while."""
    folder = tmp_path_factory.mktemp("pipeline")
    trained = Path(os.environ.get("TRAINED_MODEL") or STEP / "inference" / "model")
    if trained.exists():
        shutil.copytree(trained, folder / "model")
    database = f"sqlite:///{(folder / 'results.db').as_posix()}"
    run = start_run(STEP, (), free_settings() | {"MODEL_DIR": str(folder / "model"), "DATABASE_URL": database})
    run.wait_for(READY, timeout=120)
    return run
