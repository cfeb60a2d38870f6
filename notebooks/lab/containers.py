"""The containers of a notebook: those of step 04's tests, which here end with the kernel that has started them.

A container outlives whoever started it. So a guard (this file, run as a program) waits for the end of the kernel,
however it comes, and takes away what is left then.
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psutil

from lab import launch  # a proxy, if this machine has one, knows nothing of our services: it says so

STEP = launch.STEPS / "04_docker"
sys.path.append(str(STEP / "tests"))
from stack import Stack, missing  # noqa: E402

NAME = "inferir-notebook-"  # and the kernel's process id


class DockerIsMissing(RuntimeError):
    """Says in a sentence what is missing and what to do. A notebook shows that sentence and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"Docker is missing. {self}"]


class Containers(Stack):
    """The pipeline from `folder`. Whatever asks Docker for something raises DockerIsMissing where there is none."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.project = self.settings["COMPOSE_PROJECT_NAME"] = f"{NAME}{os.getpid()}"
        self._guard = subprocess.Popen([sys.executable, __file__, self.project], stdin=subprocess.PIPE, **launch.APART)

    def check(self) -> None:
        """DockerIsMissing if it is. Takes away the containers of kernels that are gone, guard and all."""
        for project in self.docker("compose", "ls", "--all", "--quiet", "--filter", f"name={NAME}").split():
            if not psutil.pid_exists(int(project.removeprefix(NAME))):
                remove(project)

    def compose(self, *arguments: str, **options) -> str:
        with explained():
            return super().compose(*arguments, **options)

    def docker(self, *arguments: str, **options) -> str:
        with explained():
            return super().docker(*arguments, **options)


@contextmanager
def explained():
    try:
        yield
    except (RuntimeError, OSError, subprocess.TimeoutExpired):
        if reason := missing():
            raise DockerIsMissing(reason) from None
        raise


def remove(project: str) -> None:
    """Take away all that Docker has of a project; also images that have lost their names to newer ones."""
    for command in (
        f"compose --project-name={project} down --volumes --rmi=local --remove-orphans --timeout=5",
        f"image prune --force --filter=label=com.docker.compose.project={project}",
    ):
        subprocess.run(["docker", *command.split()], cwd=STEP, stdin=subprocess.DEVNULL, capture_output=True)


if __name__ == "__main__":
    sys.stdin.read()  # until the kernel is gone
    remove(sys.argv[1])
