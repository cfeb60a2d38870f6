"""The pipeline of a notebook in a Kubernetes cluster: that of step 04's tests, removed when the kernel ends.

Pods go on when the program that started them ends. So a guard (this module, run as a program) waits for the end of the
kernel, whatever ends it, and removes the namespaces that are left.
"""

import subprocess
import sys
import uuid
from pathlib import Path

from lab import launch
from lab.containers import STEP  # it also lets Python find the modules of step 04's tests

# isort: split
from callers import Stranger  # type: ignore[import-not-found]
from cluster import KUBECTL, Pipeline, is_there, lacking, remove, remove_images, run  # type: ignore[import-not-found]

PREFIX = "inferir-cluster"  # of the images
CREATE = "kind create cluster --config kubernetes/kind.yaml"


class ClusterIsMissing(RuntimeError):
    """The message says what is missing and what to do. A notebook shows it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"There is no cluster. {self}"]


def missing() -> str:
    """Say in a sentence what a notebook lacks to use a cluster; "" if it lacks nothing."""
    if reason := lacking():
        return reason
    if not is_there():
        return f"Create one with kind: run `{CREATE}` in the folder {STEP.relative_to(launch.STEPS.parent).as_posix()}"
    return ""


class Cluster:
    """Namespaces in a cluster: `pipeline` for ours, `stranger` for callers, `scratch` to try things in.

    Raises ClusterIsMissing.
    """

    def __init__(self, place: Path):
        if reason := missing():
            raise ClusterIsMissing(reason)
        self.pipeline = Pipeline(place, PREFIX)
        self.stranger = Stranger(f"{PREFIX}-gateway:local")
        self.scratch = f"scratch-{uuid.uuid4().hex[:8]}"
        run(*KUBECTL, "create", "namespace", self.scratch)
        self._guard = subprocess.Popen(
            [sys.executable, "-m", "lab.cluster", *self.namespaces()],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            **launch.APART,
        )

    def namespaces(self) -> list[str]:
        return [self.pipeline.namespace, self.stranger.namespace, self.scratch]

    def remove(self) -> None:
        """Remove the namespaces with all that is in them, and the images from Docker."""
        self._guard.communicate(timeout=300)
        if self._guard.returncode:
            raise RuntimeError(f"something is left: delete the namespaces {', '.join(self.namespaces())}")


if __name__ == "__main__":
    sys.stdin.read()  # until the kernel has ended
    for namespace in sys.argv[1:]:
        remove(namespace)
    remove_images(PREFIX)
