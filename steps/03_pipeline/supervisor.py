"""Start processes, show what they print, and stop them all, whatever happens to this program.

python supervisor.py is the guard: it waits until run.py is gone, and kills the processes that are left.
"""

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
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from addresses import Address

READY_SECONDS = 60  # until all are ready; else the program ends
STOP_SECONDS = 15  # then what still runs is killed
STOP_ORDER = [["gateway"], ["preprocess", "inference", "storage"], ["broker"]]  # a service before what it needs
COLOURS = {"gateway": 36, "preprocess": 33, "inference": 35, "storage": 32, "broker": 34}
BOLD, PLAIN = 1, 0
IN_COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
# Ctrl-C reaches a whole group of processes. Each of ours has its own group, and stops when we tell it to.
NEW_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)  # of Windows; elsewhere start_new_session does it

signals: list[int] = []  # received so far; the first one stops everything
printing = threading.Lock()


class Process:
    """A running program, and a thread that shows what it prints behind its name."""

    def __init__(self, address: Address, command: Sequence[str | Path]):
        self.address, self.name, self.service = address, address.name, address.service
        self.last_lines: deque[str] = deque(maxlen=15)
        self.popen = subprocess.Popen(
            command,
            env={**os.environ, **address.environment, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            creationflags=NEW_GROUP,
        )
        self._reader = threading.Thread(target=self._read, args=[self.popen.stdout], daemon=True)
        self._reader.start()

    def _read(self, output: IO[bytes]) -> None:
        rest = b""
        while chunk := output.read(65_536):  # what is there; under load, many lines at once
            *lines, rest = (rest + chunk).split(b"\n")
            self._show(lines)
        self._show([rest] if rest else [])

    def _show(self, lines: list[bytes]) -> None:
        decoded = [line.decode(errors="replace").rstrip("\r") for line in lines]
        self.last_lines.extend(decoded)
        say(*decoded, name=self.name)

    def why_not_ready(self) -> str:
        """Return "" if it is ready: GET /readyz answers 200, or a broker introduces itself. Else return the reason."""
        host, ports = self.address.local_host, self.address.ports
        try:
            if "nats" in ports:
                with socket.create_connection((host, ports["nats"]), timeout=2) as broker:
                    return "" if broker.recv(4) == b"INFO" else "another program answers there, not the broker"
            with contextlib.closing(http.client.HTTPConnection(host, ports["http"], timeout=2)) as connection:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
                return "" if response.status == 200 else response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return f"no answer ({error})"

    def how_it_ended(self) -> str:
        """Return how the process ended, or "" if it runs."""
        code = self.popen.poll()
        if code is None:
            return ""
        kill(self.popen.pid)  # worker processes that it left behind
        self._reader.join(5)
        if code < 0:
            return f"{self.name} was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"{self.name} ended with exit code {code}"

    def ask_to_stop(self) -> None:
        with contextlib.suppress(OSError):  # on Windows without a console it cannot be asked: it is killed later
            self.popen.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))


class Supervisor:
    """Runs processes and stops them at the end of its `with` block. If this program is killed, the guard kills them."""

    def __init__(self) -> None:
        self.processes: list[Process] = []
        self._guard = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            creationflags=NEW_GROUP,
        )

    def __enter__(self) -> "Supervisor":
        return self

    def start(self, address: Address, command: Sequence[str | Path]) -> Process:
        process = Process(address, command)
        self.processes.append(process)
        self._tell_guard()
        return process

    def remove_ended(self) -> list[tuple[Process, str]]:
        """Forget the processes that have ended. Return them, each with how it ended."""
        ended = [(process, how) for process in self.processes if (how := process.how_it_ended())]
        for process, _ in ended:
            self.processes.remove(process)
            self._tell_guard()
        return ended

    def wait_until_ready(self) -> None:
        """Return when all are ready, or after a signal. Ends the program if one of them ends or is late."""
        waiting, deadline = [*self.processes], time.monotonic() + READY_SECONDS
        while waiting and not signals:
            for process, how in self.remove_ended():
                sys.exit("\n  ".join([f"{how} before it was ready. Its last lines:", *process.last_lines]))
            last = waiting[-1]  # the broker first, the gateway at the end: each needs those that start after it
            why = last.why_not_ready()
            if not why:
                waiting.pop()
            elif time.monotonic() > deadline:
                sys.exit(f"{last.name} is not ready after {READY_SECONDS} seconds: {why}")
            else:
                time.sleep(0.1)

    def _tell_guard(self) -> None:
        assert self._guard.stdin  # it is a pipe
        with contextlib.suppress(OSError):  # if the guard was killed, go on without it
            self._guard.stdin.write(" ".join(str(process.popen.pid) for process in self.processes).encode() + b"\n")

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for services in STOP_ORDER:
            for process in self.processes:
                if process.service in services:
                    process.ask_to_stop()
            while any(process.service in services for process in self.processes):
                if time.monotonic() > deadline or signal.SIGINT in signals[1:]:  # or Ctrl-C again
                    for process in self.processes:
                        kill(process.popen.pid)
                time.sleep(0.02)
                self.remove_ended()
        self._guard.communicate()  # closes the pipe, and waits until the guard has ended


def guard() -> None:
    """Wait until run.py closes the pipe, then kill the processes that its last line names."""
    for line in [*sys.stdin.buffer][-1:]:
        for pid in line.split():
            kill(int(pid))


def kill(pid: int) -> None:
    """Kill one of our processes and its workers, as far as they still run."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(pid)], capture_output=True)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses if all of them are dead
            os.killpg(pid, signal.SIGKILL)


def catch_signals() -> None:
    """Collect Ctrl-C and similar signals in `signals`. Those that our parent told us to ignore (nohup) stay ignored."""
    for number in (getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")):
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: signals.append(number))


def say(*lines: str, name: str = "") -> None:
    """Print whole lines, also while other threads print: a process's lines behind its name, our own in bold."""
    colour = COLOURS[name.partition(":")[0]] if name else BOLD
    on, off = (f"\033[{colour}m", f"\033[{PLAIN}m") if IN_COLOUR else ("", "")
    text = "".join(f"{on}{name:10}{off}  {line}\n" if name else f"{on}{line}{off}\n" for line in lines)
    try:
        with printing:
            sys.stdout.buffer.write(text.encode(sys.stdout.encoding, errors="replace"))
            sys.stdout.flush()
    except OSError:  # the terminal was closed, or `head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signals.append(signal.SIGTERM)


if __name__ == "__main__":
    guard()
