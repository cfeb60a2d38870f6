"""Replace a service by its new version, without losing a request: python roll.py SERVICE [SERVICE ...]

It builds the image of the service. Then it starts a new container beside the old ones. When the new one is healthy, it
stops an old one, which first finishes its requests. It repeats this until all old containers are replaced. If a new
container does not become healthy, it is removed, and the old ones go on.

Run it where you run `docker compose`. It reads the same settings: PREPROCESS_VERSION=v1 python roll.py preprocess
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time
from typing import Any

WAIT_SECONDS = 60  # a new container has to be healthy within this time
# Ctrl-C stops this program, not the command that it runs: that one finishes.
NEW_SESSION: dict[str, Any] = {
    "start_new_session": True,
    "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
}
interrupted = threading.Event()


class RollError(Exception):
    """A step has failed. The message says which one and why."""


def docker(*command: str, errors: int = subprocess.PIPE, shield: bool = True) -> str:
    """Run docker and return what it prints. Raises RollError. With `shield`, Ctrl-C does not interrupt it."""
    done = subprocess.run(
        ["docker", *command],
        stdout=subprocess.PIPE,
        stderr=errors,
        encoding="utf-8",
        errors="replace",
        **(NEW_SESSION if shield else {}),
    )
    if done.returncode:
        printed = (done.stdout + (done.stderr or "")).strip()[-2000:]
        raise RollError(f"{printed}\n`docker {' '.join(command)}` has failed")
    return done.stdout


def inspect(id: str) -> dict[str, Any]:
    return json.loads(docker("inspect", id))[0]


def containers(service: str) -> list[str]:
    """The ids of the service's containers, oldest first, without those of `docker compose run`."""
    found = map(inspect, docker("compose", "ps", "--all", "--quiet", service).split())
    own = [each for each in found if each["Config"]["Labels"]["com.docker.compose.oneoff"] == "False"]
    return [each["Id"] for each in sorted(own, key=lambda each: each["Created"])]


def require_rollable(service: str, services: dict[str, dict[str, Any]]) -> None:
    """Raises RollError if two containers of the service cannot run side by side, or if it does not run."""
    if service not in services:
        raise RollError(f"there is no service {service}: choose among {', '.join(services)}")
    if services[service].get("ports"):
        why = "it has a port of this machine, which two containers cannot share"
    elif any(not volume.get("read_only") for volume in services[service].get("volumes", [])):
        why = "it writes to a volume, which two containers cannot share"
    elif not containers(service):
        raise RollError(f"{service} does not run: start it by `docker compose up --build --wait {service}`")
    else:
        return
    raise RollError(
        f"{service} has to stop for a moment, because {why}: `docker compose up --build --wait --no-deps {service}`"
    )


def roll(service: str, seconds: float) -> None:
    """Replace each container of the service. Raises RollError if a new one is not healthy within `seconds`."""
    old = containers(service)
    newest = inspect(old[-1])
    print(f"{service}: building its image", flush=True)
    docker("compose", "--progress=plain", "build", service, shield=False)
    for number, id in enumerate(old):
        try:
            start_one_more(service, seconds)
        except RollError as error:
            if number:
                raise RollError(f"{error}\n{service}: {number} of {len(old)} containers replaced; try again") from None
            docker("tag", newest["Image"], newest["Config"]["Image"])  # give the name back to the old image
            raise RollError(f"{error}\n{service}: nothing has changed") from None
        end(id)
    print(f"{service}: {len(old)} of {len(old)} containers replaced")


def start_one_more(service: str, seconds: float) -> None:
    """Start another container and wait until it is healthy. If it fails, remove it and raise RollError."""
    if interrupted.is_set():
        raise RollError("interrupted")
    before = containers(service)
    scale = f"--scale={service}={len(before) + 1}"
    try:
        docker("compose", "up", "--detach", "--no-build", "--no-recreate", scale, service)
        wait_until_healthy(containers(service)[-1], seconds)
    except RollError:
        for id in set(containers(service)) - set(before):
            end(id)
        raise


def wait_until_healthy(id: str, seconds: float) -> None:
    """Raises RollError with the end of the container's log if it crashes or is not healthy within `seconds`."""
    began, why = time.monotonic(), ""
    while not why:
        now, took = inspect(id), time.monotonic() - began
        name, health = now["Name"][1:], now["State"].get("Health", {}).get("Status")
        if health == "healthy":
            print(f"{name}: healthy after {took:.1f} s", flush=True)
            return
        if now["RestartCount"] or not now["State"]["Running"]:
            why = "it has crashed"
        elif health == "unhealthy" or took > seconds:
            why = f"it is not healthy after {took:.0f} s"
        elif interrupted.wait(0.2):
            why = "interrupted"
    log = docker("logs", "--tail=200", id, errors=subprocess.STDOUT).splitlines()
    errors = [line for line in log if "INFO" not in line][-10:]  # without the lines about requests
    raise RollError("\n".join([*errors, f"{name}: {why}"]))


def end(id: str) -> None:
    """Tell a container to stop, wait until it has, and remove it."""
    began, name = time.monotonic(), inspect(id)["Name"][1:]
    docker("stop", id)  # it has stop_grace_period to finish
    docker("rm", id)
    print(f"{name}: ended after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("services", metavar="SERVICE", nargs="+")
    parser.add_argument("--wait-timeout", type=float, default=WAIT_SECONDS, metavar="SECONDS", help="default: 60")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        services = json.loads(docker("compose", "config", "--format=json"))["services"]
        for service in arguments.services:
            require_rollable(service, services)
        for service in arguments.services:
            roll(service, arguments.wait_timeout)
    except RollError as error:
        sys.exit(str(error))
