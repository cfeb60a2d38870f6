"""Run the pipeline on this machine: gateway, preprocess, inference and storage, each a process of its own.

python run.py                  all four, until Ctrl-C; a model is trained first if there is none
python run.py --only storage   one of them, or several: in another terminal, to start again what has ended

Settings are environment variables, and every service gets them all. PORT and HOST are the gateway's. The others listen
where PREPROCESS_URL, INFERENCE_URL and STORAGE_URL say: two URLs with a comma between them are two processes, and a
URL of another machine is none.
"""

import argparse
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

STEP = Path(__file__).resolve().parent
READY_SECONDS, STOP_SECONDS = 60, 15
SERVICES = {  # the setting that says where it listens, the default, a colour
    "gateway": ("PORT", "8000", 36),
    "preprocess": ("PREPROCESS_URL", "http://127.0.0.1:8001", 33),
    "inference": ("INFERENCE_URL", "http://127.0.0.1:8002", 35),
    "storage": ("STORAGE_URL", "http://127.0.0.1:8003", 32),
}
COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
# Ctrl-C reaches a whole group of processes. Each of ours is in a group of its own, and leaves when we ask it to.
APART = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}

signals: list[int] = []  # those that asked us to leave
printing = threading.Lock()


class Process:
    """A script that runs, and the thread that shows what it prints."""

    def __init__(self, service: str, script: str, host: str = "", port: int = 0):
        replicas = "," in os.environ[SERVICES[service][0]]
        self.service, self.name = service, f"{service}:{port}" if replicas and port else service
        self.host, self.port, self.last_lines = "127.0.0.1" if host == "0.0.0.0" else host, port, deque(maxlen=15)
        self.popen = subprocess.Popen(
            [sys.executable, STEP / service / script],
            env={**os.environ, "HOST": host, "PORT": str(port), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            **APART,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while chunk := self.popen.stdout.read(65_536):  # whatever there is: under load, many lines
            *lines, rest = (rest + chunk).split(b"\n")
            self._show(lines)
        self._show([rest] if rest else [])

    def _show(self, lines: list[bytes]) -> None:
        lines = [line.decode(errors="replace").rstrip("\r") for line in lines]
        self.last_lines.extend(lines)
        say(*lines, name=self.name)

    def unready(self) -> str:
        """Tell why GET /readyz does not answer 200; "" if it does."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=2)  # which asks no proxy
        try:
            connection.request("GET", "/readyz")
            reply = connection.getresponse()
            return "" if reply.status == 200 else reply.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"no answer ({error})"
        finally:
            connection.close()

    def ending(self) -> str:
        """Tell how the process ended; "" while it runs."""
        code = self.popen.poll()
        if code is None:
            return ""
        kill(self.popen.pid)  # workers that it left behind
        self._reader.join(5)
        if code < 0:
            return f"{self.name} was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"{self.name} ended with exit code {code}"

    def ask_to_leave(self) -> None:
        with contextlib.suppress(OSError):  # Windows without a console: it will be killed
            self.popen.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGTERM)


class Pipeline(list[Process]):
    """The processes that run. They leave at the end of the block. If this program is killed, its guard kills them."""

    def __enter__(self):
        self._guard = subprocess.Popen([sys.executable, __file__, "--guard"], stdin=subprocess.PIPE, bufsize=0, **APART)
        return self

    def start(self, *arguments) -> Process:
        self.append(Process(*arguments))
        self._tell_guard()
        return self[-1]

    def ended(self) -> list[tuple[Process, str]]:
        """Drop the processes that have ended, and return them with how each did."""
        endings = [(process, ending) for process in self if (ending := process.ending())]
        for process, _ in endings:
            self.remove(process)
            self._tell_guard()
        return endings

    def _tell_guard(self) -> None:
        with contextlib.suppress(OSError):  # if somebody killed it, we go on without
            self._guard.stdin.write(" ".join(str(process.popen.pid) for process in self).encode() + b"\n")

    def __exit__(self, *_) -> None:
        for process in self:
            process.ask_to_leave()
        deadline = time.monotonic() + STOP_SECONDS
        while self:
            if time.monotonic() > deadline or signal.SIGINT in signals[1:]:  # or Ctrl-C again
                for process in self:
                    kill(process.popen.pid)
            time.sleep(0.02)
            self.ended()
        self._guard.communicate()


def guard() -> None:
    """Wait until the pipe from run.py closes, then kill the processes that its last line names."""
    for line in [*sys.stdin.buffer][-1:]:
        for pid in line.split():
            kill(int(pid))


def kill(pid: int) -> None:
    """Kill a process of ours and its workers, if any of them is left."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(pid)], capture_output=True)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses if all of them are dead
            os.killpg(pid, signal.SIGKILL)


def say(*lines: str, name: str = "") -> None:
    """Print lines, never torn by those of another thread: a service's behind its name, ours in bold."""
    colour = SERVICES[name.partition(":")[0]][2] if name else 1
    on, off = (f"\033[{colour}m", "\033[0m") if COLOURS else ("", "")
    text = "".join(f"{on}{name:10}{off}  {line}\n" if name else f"{on}{line}{off}\n" for line in lines)
    try:
        with printing:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError:  # nobody reads any more: the terminal was closed, or `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signals.append(signal.SIGTERM)


def addresses(service: str) -> list[tuple[str, int]]:
    """Read where the processes of a service are to listen: (host, port) for each URL of this machine."""
    setting, default, _ = SERVICES[service]
    value = os.environ[setting]
    try:
        if service == "gateway":
            found = [(os.environ.get("HOST") or "127.0.0.1", urlsplit(f"//:{value}").port)]
        else:
            urls = [urlsplit(url.strip()) for url in value.split(",")]
            found = [(url.hostname, url.port) for url in urls if url.hostname in ("127.0.0.1", "localhost", None)]
    except ValueError:
        found = [("", 0)]
    if not all(host and port for host, port in found):
        sys.exit(f"{setting} is {value!r}: it should look like {default}")
    return found


def require_free(service: str, host: str, port: int) -> None:
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        where, why = f"{host}:{port}", str(error.strerror).partition(" (")[0]
        setting = SERVICES[service][0]
        sys.exit(f"{service} cannot listen on {where} ({why}): stop the program that does, or change {setting}.")


def train(pipeline: Pipeline) -> None:
    process = pipeline.start("inference", "train.py")
    while not pipeline.ended() and not signals:
        time.sleep(0.05)
    if process.popen.returncode:
        sys.exit("The training failed: read above why.")


def wait_until_ready(pipeline: Pipeline) -> None:
    """Return when all are ready, or we are asked to leave. The program ends if one of them does or is late."""
    waiting, deadline = list(pipeline), time.monotonic() + READY_SECONDS
    while waiting and not signals:
        for process, ending in pipeline.ended():
            sys.exit("\n  ".join([f"{ending} before it was ready. It said last:", *process.last_lines]))
        why = waiting[-1].unready()  # the gateway, which needs the others, comes last
        if not why:
            waiting.pop()
        elif time.monotonic() > deadline:
            sys.exit(f"{waiting[-1].name} is not ready after {READY_SECONDS} seconds: {why}")
        else:
            time.sleep(0.1)


def main() -> str | None:
    """Return what sys.exit() takes: nothing, or why there is no pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = {"metavar": "SERVICE", "help": f"start no others; one or several of {', '.join(SERVICES)}"}
    parser.add_argument("--only", nargs="+", action="extend", choices=SERVICES, **only)
    parser.add_argument("--guard", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.guard:
        return guard()

    for number in (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")):
        if number and signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, frame: signals.append(number))
    sys.stdout.reconfigure(errors="replace")
    if COLOURS and os.name == "nt":
        os.system("")  # makes older consoles of Windows understand colours
    for setting, default, _ in SERVICES.values():
        os.environ[setting] = os.environ.get(setting) or default  # for the gateway, too
    services = [service for service in SERVICES if service in (arguments.only or SERVICES)]
    places = [(service, *address) for service in services for address in addresses(service)]
    if not places:
        return "There is nothing to start: those services are on other machines."
    for place in places:
        require_free(*place)
    model = Path(os.environ.get("MODEL_DIR") or STEP / "inference" / "model")

    with Pipeline() as pipeline:
        if any(service == "inference" for service, *_ in places) and not (model / "manifest.json").exists():
            say(f"There is no model in {model}. Training one takes about fifteen seconds.")
            train(pipeline)
        for service, host, port in places:
            if not signals:
                process = pipeline.start(service, "app.py", host, port)
                say(f"pid {process.popen.pid}  http://{process.host}:{port}", name=process.name)
        wait_until_ready(pipeline)
        if not signals and pipeline:
            door = f"The pipeline is ready: http://{pipeline[0].host}:{pipeline[0].port}"
            say(f"Ready: {', '.join(services)}" if arguments.only else door)
        while pipeline and not signals:
            time.sleep(0.1)
            for process, ending in pipeline.ended():
                say(f"{ending}: start it again with `python run.py --only {process.service}`")
        if signals:
            say("Stopping: Ctrl-C once more does not wait")
    return None if signals else "None of them runs any more."


if __name__ == "__main__":
    sys.exit(main())
