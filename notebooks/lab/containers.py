"""The containers of a notebook: the Stack of step 04's tests, removed when the kernel that started it ends.

Containers go on when the program that started them ends. So a guard (this module, run as a program) waits for the end
of the kernel, whatever ends it, and removes what is left.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from lab import launch  # it also tells requests to use no proxy for our services

STEP = launch.STEPS / "04_docker"
sys.path.append(str(STEP / "tests"))
from stack import Stack, missing  # type: ignore[import-not-found] # noqa: E402 (mypy does not know that folder)

NAME = "inferir-notebook-"  # of the project, followed by the kernel's process id


class DockerIsMissing(RuntimeError):
    """The message says what is missing and what to do. A notebook shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Docker is missing. {self}"]


class Containers(Stack):
    """The pipeline from `folder`. Methods raise DockerIsMissing on a machine without Docker."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.project = self.settings["COMPOSE_PROJECT_NAME"] = f"{NAME}{os.getpid()}"
        command = [sys.executable, "-m", "lab.containers", self.project]
        self._guard = subprocess.Popen(
            command, cwd=Path(__file__).resolve().parents[1], stdin=subprocess.PIPE, **launch.APART
        )

    def check(self) -> None:
        """Remove the containers of kernels that ended together with their guards. Raises DockerIsMissing."""
        for project in self.docker("compose", "ls", "--all", "--quiet", "--filter", f"name={NAME}").split():
            if not psutil.pid_exists(int(project.removeprefix(NAME))):
                remove(project)

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        with explained():
            return super().compose(*arguments, seconds=seconds)

    def docker(self, *arguments: str, seconds: float = 60) -> str:
        with explained():
            return super().docker(*arguments, seconds=seconds)


@contextmanager
def explained() -> Iterator[None]:
    """Raise DockerIsMissing instead of the error, if Docker is missing."""
    try:
        yield
    except (RuntimeError, OSError, subprocess.TimeoutExpired):
        if reason := missing():
            raise DockerIsMissing(reason) from None
        raise


def remove(project: str) -> None:
    """Remove everything that Docker has of a project, its images included."""

    def docker(command: str) -> str:
        words = ["docker", *command.split()]
        return subprocess.run(words, cwd=STEP, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout

    mine = f"--filter=label=com.docker.compose.project={project}"
    docker(f"compose --project-name={project} down --volumes --remove-orphans --timeout=5")
    for id in docker(f"container ls --all --quiet {mine}").split():  # of `docker run`: Compose does not know them
        docker(f"container rm --force {id}")
    docker(f"image prune --all --force {mine}")


if __name__ == "__main__":
    sys.stdin.read()  # until the kernel has ended
    if shutil.which("docker"):
        remove(sys.argv[1])
