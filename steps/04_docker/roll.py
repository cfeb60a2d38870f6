"""Put a new version of a service into operation with no request lost: python roll.py SERVICE [SERVICE ...]

It builds the service's image. Then a new container starts beside the old ones, and when it is healthy, one of the old
ones is told to end: it answers what it has begun, and goes. So with the next, until none is old. A new container that
does not become healthy is taken away again, and the old ones have never stopped.

It runs where `docker compose` would, and reads the same settings: PREPROCESS_VERSION=v1 python roll.py preprocess
"""

import argparse
import json
import signal
import subprocess
import sys
import threading
import time

WAIT_SECONDS = 60  # by then a new container is healthy
# Ctrl-C is for this program, not for the commands that it runs: what has begun with a container is finished.
APART = {"start_new_session": True, "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
interrupted = threading.Event()


class Failed(Exception):
    """What has gone wrong, in a sentence, with the last words of whoever knows more."""


def docker(*command: str, errors=subprocess.PIPE, apart: bool = True) -> str:
    """Run docker and return what it prints. Failed if it fails."""
    done = subprocess.run(
        ["docker", *command],
        stdout=subprocess.PIPE,
        stderr=errors,
        encoding="utf-8",
        errors="replace",
        **(APART if apart else {}),
    )
    if done.returncode:
        said = (done.stdout + (done.stderr or "")).strip()[-2000:]
        raise Failed(f"{said}\n`docker {' '.join(command)}` has failed")
    return done.stdout


def inspect(id: str) -> dict:
    return json.loads(docker("inspect", id))[0]


def containers(service: str) -> list[str]:
    """The ids of the service's containers, oldest first, without those of `docker compose run`."""
    found = map(inspect, docker("compose", "ps", "--all", "--quiet", service).split())
    own = [now for now in found if now["Config"]["Labels"]["com.docker.compose.oneoff"] == "False"]
    return [now["Id"] for now in sorted(own, key=lambda now: now["Created"])]


def require_fit(service: str, services: dict[str, dict]) -> None:
    """Failed if two containers of the service cannot run side by side, or none runs now."""
    if service not in services:
        raise Failed(f"there is no service {service}: choose among {', '.join(services)}")
    if services[service].get("ports"):
        why = "it has a port of this machine, which two containers cannot share"
    elif any(not volume.get("read_only") for volume in services[service].get("volumes", [])):
        why = "it writes to a volume, which two containers cannot share"
    elif not containers(service):
        raise Failed(f"{service} does not run: start it by `docker compose up --build --wait {service}`")
    else:
        return
    raise Failed(f"{service} has to be away for a moment, since {why}: `docker compose up --build --wait {service}`")


def roll(service: str, seconds: float) -> None:
    """Replace each container of the service. Failed as soon as a new one is not healthy within so many seconds."""
    old = containers(service)
    newest = inspect(old[-1])
    print(f"{service}: building its image", flush=True)
    docker("compose", "--progress=plain", "build", service, apart=False)
    for number, id in enumerate(old):
        try:
            start_one_more(service, seconds)
        except Failed as failed:
            if number:
                raise Failed(f"{failed}\n{service}: {number} of {len(old)} containers replaced; try again") from None
            docker("tag", newest["Image"], newest["Config"]["Image"])  # the name is that of the image in use again
            raise Failed(f"{failed}\n{service}: all is as it was") from None
        end(id)
    print(f"{service}: {len(old)} of {len(old)} containers replaced")


def start_one_more(service: str, seconds: float) -> None:
    """Return when there is another container and it is healthy. Failed otherwise, and it is gone again."""
    before = containers(service)
    scale = f"--scale={service}={len(before) + 1}"
    try:
        docker("compose", "up", "--detach", "--no-build", "--no-recreate", scale, service)
        wait_until_healthy(containers(service)[-1], seconds)
    except Failed:
        for id in set(containers(service)) - set(before):
            end(id)
        raise


def wait_until_healthy(id: str, seconds: float) -> None:
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
    told = [line for line in log if "INFO" not in line][-10:]  # what is not about a request
    raise Failed("\n".join([*told, f"{name}: {why}"]))


def end(id: str) -> None:
    """Tell a container to end, wait until it has, and remove it."""
    began, name = time.monotonic(), inspect(id)["Name"][1:]
    docker("stop", id)  # within stop_grace_period
    docker("rm", id)
    print(f"{name}: ended after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("services", metavar="SERVICE", nargs="+")
    parser.add_argument("--wait-timeout", type=float, default=WAIT_SECONDS, metavar="SECONDS", help="default: 60")
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        services = json.loads(docker("compose", "config", "--format=json"))["services"]
        for service in asked.services:
            require_fit(service, services)
        for service in asked.services:
            roll(service, asked.wait_timeout)
    except Failed as failed:
        sys.exit(str(failed))
