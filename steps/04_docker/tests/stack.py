"""The containers of one Compose project, on a port of their own: started, broken and taken away from Python."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import requests

STEP = Path(__file__).resolve().parent.parent
START_SECONDS = 900  # the first time, images are built and the model is trained


class Stack:
    """The pipeline from `folder`, which holds compose.yaml. Settings are those that compose.yaml asks for.

    Its project, port, images, volumes and networks are its own, so it meets no other on the same machine. Use it with
    `with`: at the end of the block nothing of it is left, and nothing that it kept.
    """

    def __init__(self, folder: Path = STEP, **settings: str):
        self.folder, self.project, self.port = folder, f"inferir-{uuid.uuid4().hex[:8]}", free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"COMPOSE_PROJECT_NAME": self.project, "PORT": str(self.port), **settings}

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.compose("down", "--volumes", "--rmi=local", "--remove-orphans", "--timeout=5", seconds=120)
        # images that have lost their names to newer ones
        self.docker("image", "prune", "--force", f"--filter=label=com.docker.compose.project={self.project}")

    # starting, and what Compose and Docker say

    def up(self, *arguments: str) -> None:
        """docker compose up --build --wait. RuntimeError with the end of the log if it fails."""
        self.compose("up", "--build", "--wait", "--quiet-pull", *arguments, seconds=START_SECONDS)

    def compose(self, *arguments: str, seconds: float = 120, content: bytes | None = None) -> str:
        """Run `docker compose` and return what it prints. RuntimeError if it fails, TimeoutExpired if it is late."""
        return run(["docker", "compose", *arguments], self.folder, self.settings, seconds, content)

    def docker(self, *arguments: str, seconds: float = 60) -> str:
        return run(["docker", *arguments], self.folder, self.settings, seconds)

    def containers(self, service: str) -> list[str]:
        """The ids of the service's containers, running or not, oldest first."""
        ids = self.compose("ps", "--all", "--quiet", "--orphans=false", service).split()
        return sorted(ids, key=lambda id: self.inspect(id)["Created"])

    def inspect(self, id: str) -> dict:
        return json.loads(self.docker("inspect", id))[0]

    def logs(self, service: str, lines: int = 50) -> str:
        return self.compose("logs", "--no-log-prefix", "--no-color", f"--tail={lines}", service)

    def run_in(self, service: str, *command: str, content: bytes | None = None) -> str:
        """Run a command in the service's container, with `content` for its standard input."""
        return self.compose("exec", "-T", service, *command, content=content)

    # breaking

    def crash(self, service: str) -> None:
        """End the program in each container, as a fault of its own would. Docker starts it again.

        `docker kill` would not do: Docker starts nothing again that it was told to end. Process 1 is Docker's own init,
        and the program is its child.
        """
        for id in self.containers(service):
            self.docker("exec", id, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")

    def kill(self, service: str) -> None:
        """End it with no warning; it stays away until start()."""
        self.compose("kill", service)

    def start(self, *services: str) -> None:
        """Start it again, and return when it is ready."""
        self.compose("up", "--no-build", "--no-deps", "--no-recreate", "--wait", *services, seconds=120)

    def pause(self, service: str) -> None:
        """Let it hang: its connections stay open, and nobody answers."""
        self.compose("pause", service)

    def unpause(self, service: str) -> None:
        self.compose("unpause", service)

    def disconnect(self, service: str) -> None:
        """Cut it off from all the others."""
        for id, network in self._plugs(service):
            self.docker("network", "disconnect", network, id)

    def connect(self, service: str) -> None:
        for id, network in self._plugs(service):
            self.docker("network", "connect", f"--alias={service}", network, id)

    def _plugs(self, service: str) -> list[tuple[str, str]]:
        networks = set(json.loads(self.compose("config", "--format=json"))["services"][service]["networks"]) - {"front"}
        return [(id, f"{self.project}_{network}") for id in self.containers(service) for network in networks]

    def limit_memory(self, service: str, megabytes: int) -> None:
        """RuntimeError, on some machines, if it takes more already."""
        limit = f"{megabytes}m"
        self.docker("update", f"--memory={limit}", f"--memory-swap={limit}", *self.containers(service))

    # asking

    def restarts(self, service: str) -> int:
        """How often Docker has started its containers again by itself."""
        return sum(self.inspect(id)["RestartCount"] for id in self.containers(service))

    def memory(self, service: str) -> int:
        """Megabytes that its program takes, without what the kernel keeps of files."""
        kept = "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null || true"  # cgroup v2, v1
        lines = dict(line.split() for line in self.run_in(service, "sh", "-c", kept).splitlines())
        return int(lines.get("anon") or lines["total_rss"]) >> 20

    def addresses(self, service: str) -> list[str]:
        """Of its container, one in each network."""
        (id,) = self.containers(service)
        return sorted(network["IPAddress"] for network in self.inspect(id)["NetworkSettings"]["Networks"].values())

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=10)

    def post(self, **sent) -> requests.Response:
        return requests.post(self.url + "/inferir", timeout=10, **sent)

    def unready(self) -> list[str]:
        """Which services the gateway finds not to be ready; ["gateway"] if it is not there itself."""
        try:
            return [name for name, health in self.get("/services").json().items() if not health["ready"]]
        except (requests.RequestException, ValueError):
            return ["gateway"]

    def wait_until_ready(self, seconds: float = 60) -> None:
        wait_until(lambda: not self.unready(), seconds)

    def sql(self, query: str) -> list[list[str]]:
        """Ask the database, past storage. Returns rows of texts."""
        command = ["psql", "--username=inferir", "--no-align", "--tuples-only", "--quiet", f"--command={query}"]
        return [line.split("|") for line in self.run_in("database", *command).splitlines()]


def run(
    command: list[str], folder: Path, settings: dict[str, str], seconds: float, content: bytes | None = None
) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **settings},
        input=content,
        stdin=subprocess.DEVNULL if content is None else None,
        capture_output=True,
        timeout=seconds,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout.decode(errors="replace")


def missing() -> str:
    """What this machine lacks to run containers, in a sentence; "" if nothing."""
    if not shutil.which("docker"):
        return "Docker is not installed: install Docker Desktop or Docker Engine"
    try:
        for command, remedy in ((["info"], "start Docker"), (["compose", "version"], "install Docker Compose 2.20")):
            if subprocess.run(["docker", *command], capture_output=True, timeout=60).returncode:
                return f"`docker {' '.join(command)}` fails: {remedy}"
    except subprocess.TimeoutExpired:
        return "Docker does not answer: start it again"
    return ""


def free_port() -> int:
    """A port below those that a system gives to outgoing connections, which may take it while the gateway is away."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], seconds: float = 30, pause: float = 0.1) -> None:
    """Return when the condition holds. TimeoutError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {seconds:g} s")
        time.sleep(pause)
