"""The containers of one Compose project, on a port of their own: start, break and remove them from Python."""

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
PIPELINE = STEP.parent / "03_pipeline"
START_SECONDS = 900  # the first time, images are built and the model is trained


class Stack:
    """The pipeline from `folder`, which holds compose.yaml; 03_pipeline is beside it. Settings go to compose.yaml.

    It has a project, a port, images, volumes and networks of its own, so several stacks can run on one machine. Use it
    with `with`: at the end of the block, all of these are removed.
    """

    def __init__(self, folder: Path = STEP, **settings: str):
        self.folder, self.services = folder, folder.parent / "03_pipeline"
        self.project, self.port = f"inferir-{uuid.uuid4().hex[:8]}", free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {"COMPOSE_PROJECT_NAME": self.project, "PORT": str(self.port), **settings}

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout=0", seconds=120)
        self.docker("image", "prune", "--all", "--force", f"--filter=label=com.docker.compose.project={self.project}")

    # starting, and what Compose and Docker say

    def up(self, *arguments: str) -> None:
        """docker compose up --build --wait. Raises RuntimeError with the end of the log."""
        self.compose("up", "--build", "--wait", "--quiet-pull", *arguments, seconds=START_SECONDS)

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        """Run `docker compose` and return what it prints. Raises RuntimeError, or TimeoutExpired after `seconds`."""
        return run(["docker", "compose", *arguments], self.folder, self.settings, seconds)

    def docker(self, *arguments: str, seconds: float = 60) -> str:
        return run(["docker", *arguments], self.folder, self.settings, seconds)

    def containers(self, service: str) -> list[str]:
        """The ids of the service's containers, running or not, oldest first."""
        labels = {"project": self.project, "service": service, "oneoff": "False"}
        chosen = [f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()]
        ids = self.docker("ps", "--all", "--quiet", "--no-trunc", *chosen).split()
        return sorted(ids, key=lambda id: self.inspect(id)["Created"]) if len(ids) > 1 else ids

    def image(self, service: str) -> str:
        """The name of the image that Compose builds for the service."""
        return f"{self.project}-{service}:local"

    def inspect(self, id: str) -> dict:
        return json.loads(self.docker("inspect", id))[0]

    def logs(self, service: str, lines: int = 50) -> str:
        return self.compose("logs", "--no-log-prefix", "--no-color", f"--tail={lines}", service)

    def run_in(self, service: str, *command: str) -> str:
        """Run a command in the service's container."""
        ids = self.containers(service)
        if not ids:
            raise RuntimeError(f"{service} has no container")
        return self.docker("exec", ids[0], *command)

    # breaking

    def crash(self, service: str) -> None:
        """Kill the program in each container, as a fault of its own would. Docker starts it again.

        `docker kill` is no substitute: Docker does not restart a container after that. Process 1 is Docker's init, and
        the program is its child.
        """
        for id in self.containers(service):
            self.docker("exec", id, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")

    def kill(self, service: str) -> None:
        """Kill it. It stays down until start()."""
        self.compose("kill", service)

    def start(self, *services: str) -> None:
        """Start services again. Returns when they are ready."""
        self.compose("up", "--no-build", "--no-deps", "--no-recreate", "--wait", *services, seconds=120)

    def pause(self, service: str) -> None:
        """Make it hang: its connections stay open, and it does not answer."""
        self.compose("pause", service)

    def unpause(self, service: str) -> None:
        self.compose("unpause", service)

    def disconnect(self, service: str) -> None:
        """Cut it off from all other services."""
        for id, network in self._plugs(service):
            self.docker("network", "disconnect", network, id)

    def connect(self, service: str) -> None:
        for id, network in self._plugs(service):
            self.docker("network", "connect", f"--alias={service}", network, id)

    def _plugs(self, service: str) -> list[tuple[str, str]]:
        networks = set(json.loads(self.compose("config", "--format=json"))["services"][service]["networks"]) - {"front"}
        return [(id, f"{self.project}_{network}") for id in self.containers(service) for network in networks]

    def limit_memory(self, service: str, megabytes: int) -> None:
        """Set its limit. On some machines this raises RuntimeError if it already uses more."""
        limit = f"{megabytes}m"
        self.docker("update", f"--memory={limit}", f"--memory-swap={limit}", *self.containers(service))

    # asking

    def restarts(self, service: str) -> int:
        """How often Docker has restarted its containers by itself."""
        return sum(self.inspect(id)["RestartCount"] for id in self.containers(service))

    def memory(self, service: str) -> int:
        """The memory of its program in megabytes, without the kernel's cache of files."""
        kept = "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null || true"  # cgroup v2, v1
        lines = dict(line.split() for line in self.run_in(service, "sh", "-c", kept).splitlines())
        return int(lines.get("anon") or lines["total_rss"]) >> 20

    def addresses(self, service: str) -> list[str]:
        """The addresses of its container, one in each network."""
        (id,) = self.containers(service)
        return sorted(network["IPAddress"] for network in self.inspect(id)["NetworkSettings"]["Networks"].values())

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=10)

    def post(self, **sent) -> requests.Response:
        return requests.post(self.url + "/inferir", timeout=10, **sent)

    def unready(self) -> list[str]:
        """The services that are not ready, as the gateway sees them; ["gateway"] if it does not answer itself."""
        try:
            return [name for name, health in self.get("/services").json().items() if not health["ready"]]
        except (requests.RequestException, ValueError):
            return ["gateway"]

    def wait_until_ready(self, seconds: float = 60) -> None:
        wait_until(lambda: not self.unready(), seconds)

    def sql(self, query: str) -> list[list[str]]:
        """Query the database directly. Returns rows of texts."""
        command = ["psql", "--username=inferir", "--no-align", "--tuples-only", "--quiet", f"--command={query}"]
        return [line.split("|") for line in self.run_in("database", *command).splitlines()]


def run(command: list[str], folder: Path, settings: dict[str, str], seconds: float) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout.decode(errors="replace")


def missing() -> str:
    """Say in a sentence what this machine needs to run containers; "" if it has everything."""
    if not shutil.which("docker"):
        return "Docker is not installed: install Docker Desktop or Docker Engine"
    try:
        for command, remedy in ((["info"], "start Docker"), (["compose", "version"], "install Docker Compose 2.24")):
            if subprocess.run(["docker", *command], capture_output=True, timeout=60).returncode:
                return f"`docker {' '.join(command)}` fails: {remedy}"
    except subprocess.TimeoutExpired:
        return "Docker does not answer: start it again"
    return ""


def free_port() -> int:
    """A free port below those for outgoing connections: these could take it while the gateway is down."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(condition: Callable[[], bool], seconds: float = 30, pause: float = 0.1) -> None:
    """Return when the condition holds. Raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition does not hold after {seconds:g} s")
        time.sleep(pause)
