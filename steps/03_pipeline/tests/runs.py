"""`python run.py` as a process: what it prints, its signals, and that nothing of it is left."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ports import is_taken

STEP = Path(__file__).resolve().parent.parent
READY = r"^The pipeline is ready: http://127\.0\.0\.1:(\d+)$"

# A shell that starts these tests in the background lets them ignore SIGINT, and what they start would ignore it, too. A
# program that is started gets the default again for a signal that has a handler here.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Run:
    """`python run.py`. `lines` are those that it has printed."""

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
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
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

    def shown(self, service: str) -> dict[str, str | None]:
        """The settings that a stand-in got: those of SHOWN."""
        return json.loads(self.wait_for(rf"^{service} +(\{{.*)")[1])[service]

    def ask(self, method: str = "POST", path: str = "/inferir") -> tuple[int, dict]:
        """Ask the gateway, and return the status and the body of its response."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.settings["PORT"]), timeout=20)
        body = (STEP / "sample_request.json").read_bytes() if method == "POST" else None
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.status, json.loads(response.read())
        connection.close()
        return answer

    def predict(self) -> dict:
        """Ask for a prediction, and return the body of the response."""
        status, body = self.ask()
        assert (status, body["prediction"]) == (200, [3])
        return body

    def kill(self, service: str) -> None:
        os.kill(self.pid(service), getattr(signal, "SIGKILL", signal.SIGTERM))

    def interrupt(self) -> None:
        """Send what Ctrl-C sends; on Windows only Ctrl-Break can be sent."""
        self.process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))

    def end(self, timeout: float = 20) -> int:
        """Wait until it has ended, its guard too, and return its exit code."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)  # the guard has the other end of this pipe
        assert not self._reader.is_alive(), self.text
        return code

    def is_gone(self) -> bool:
        """Tell whether all its processes end within some seconds."""
        pids = [int(pid) for pid in re.findall(r"\b(?:pid|worker) (\d+)", self.text)]
        urls = " ".join(re.findall(r" pid \d+  (.*)", self.text))
        ports = [int(port) for port in re.findall(r"\w+://127.0.0.1:(\d+)", urls)]
        return eventually(lambda: not any(map(is_alive, pids)) and not any(map(is_taken, ports)))


def eventually(condition: Callable[[], object], timeout: float = 20) -> bool:
    until = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    if os.name == "nt":  # there, os.kill would end it; the ports have to tell
        return False
    with suppress(OSError):
        os.kill(pid, 0)
        status = Path(f"/proc/{pid}/status")
        return not (status.exists() and "State:\tZ" in status.read_text())  # dead, but init has not noticed it yet
    return False


@contextmanager
def reaped() -> Iterator[Callable[..., Run]]:
    """Give a function that runs run.py. At the end of the block, all that it started has ended."""
    runs: list[Run] = []

    def start_run(*arguments, **options) -> Run:
        runs.append(Run(*arguments, **options))
        return runs[-1]

    try:
        yield start_run
    finally:
        for run in runs:
            run.process.kill()
        for run in runs:
            run.end()
            run.process.stdout.close()
            assert run.is_gone(), run.text
