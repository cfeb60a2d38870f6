"""The pipeline in a cluster that kind made, in a namespace of its own: start, ask and remove it from Python."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from stack import STEP, missing

CONTEXT = "kind-kind"  # no other: yours may be the cluster that you work with
SERVICES = ["gateway", "preprocess", "inference", "storage"]
IMAGES = [*SERVICES, "broker"]
PREFIX = "inferir-test"  # of the images, so that yours stay as they are
START_SECONDS = 240


def lacking() -> str:
    """Say in a sentence what this machine needs for a cluster; "" if it has everything."""
    if reason := missing():
        return reason
    for program in ("kind", "kubectl"):
        if not shutil.which(program):
            return f"{program} is not installed: see the section on Kubernetes in the README"
    return ""


@contextlib.contextmanager
def running_cluster() -> Iterator[None]:
    """The cluster of CONTEXT. If it does not answer, it is created, and deleted at the end."""
    ask = ["kubectl", f"--context={CONTEXT}", "--request-timeout=5s", "get", "--raw=/readyz"]
    created = subprocess.run(ask, capture_output=True, timeout=60).returncode != 0
    if created:
        run("kind", "create", "cluster", "--name=kind", seconds=600)
    try:
        yield
    finally:
        if created:
            run("kind", "delete", "cluster", "--name=kind")


def load_images() -> None:
    """Build the images and load them into the cluster. Docker itself keeps none of them."""
    run("docker", "compose", "build", "--quiet", seconds=900, COMPOSE_PROJECT_NAME=PREFIX)
    names = [f"{PREFIX}-{name}:local" for name in IMAGES]
    try:
        run("kind", "load", "docker-image", *names, seconds=300)
        with contextlib.suppress(RuntimeError):  # it saves a download; without it, the cluster fetches the image
            run("kind", "load", "docker-image", "postgres:17", seconds=300)
    finally:
        run("docker", "image", "rm", *names)


def run(*command: str, seconds: float = 120, **env: str) -> str:
    """Run a command in the step's folder. Raises RuntimeError with what it said."""
    done = subprocess.run(command, cwd=STEP, env={**os.environ, **env}, capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}")
    return done.stdout


class Pipeline:
    """kubernetes/local in a namespace of its own. Use it with `with`: at the end, the namespace is deleted."""

    def __init__(self, folder: Path):
        self.namespace = f"inferir-{uuid.uuid4().hex[:8]}"
        self.manifests = shutil.copytree(STEP / "kubernetes", folder / "kubernetes")
        (self.manifests / "local" / "password").write_text(uuid.uuid4().hex)
        (self.manifests / "test").mkdir()
        images = [{"name": f"inferir-{name}", "newName": f"{PREFIX}-{name}"} for name in IMAGES]
        overlay = {"namespace": self.namespace, "resources": ["../local"], "images": images}
        (self.manifests / "test" / "kustomization.yaml").write_text(json.dumps(overlay))

    def __enter__(self):
        try:
            self.kubectl("apply", "--kustomize", str(self.manifests / "test"))
            self.wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        # Pods would wait 45 s before they end, and what they belong to would start them again.
        self.kubectl("delete", "deployments,replicasets,statefulsets", "--all", "--cascade=orphan")
        self.kubectl("delete", "pods", "--all", "--force", "--grace-period=0")
        self.kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--timeout=120s", seconds=150)

    def kubectl(self, *arguments: str, seconds: float = 120) -> str:
        return run("kubectl", f"--context={CONTEXT}", f"--namespace={self.namespace}", *arguments, seconds=seconds)

    def wait_until_ready(self) -> None:
        """Wait for all pods. Raises RuntimeError with the cluster's events and the services' last lines."""
        for name in ("statefulset/broker", "statefulset/database", *(f"deployment/{name}" for name in SERVICES)):
            try:
                self.kubectl("rollout", "status", name, f"--timeout={START_SECONDS}s", seconds=START_SECONDS + 30)
            except RuntimeError as error:
                raise RuntimeError(f"{name} does not become ready: {error}\n{self.trouble()}") from None

    def trouble(self) -> str:
        """What the cluster and the pods say."""
        said = [self.kubectl("get", "pods", "--output=wide"), self.kubectl("events", "--types=Warning")[-4000:]]
        for pod in self.kubectl("get", "pods", "--output=name").split():
            with contextlib.suppress(RuntimeError):  # a container that has not started has no log
                said.append(f"{pod}\n{self.kubectl('logs', pod, '--tail=8')}")
        return "\n".join(said)

    def pods(self) -> dict[str, list[dict]]:
        """The pods of each workload, those that are ending included."""
        found: dict[str, list[dict]] = {}
        for pod in json.loads(self.kubectl("get", "pods", "--output=json"))["items"]:
            found.setdefault(pod["metadata"]["labels"]["app"], []).append(pod)
        return found

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[str]:
        """While the block runs, the gateway answers at the URL that this gives."""
        command = ["kubectl", f"--context={CONTEXT}", f"--namespace={self.namespace}"]
        command += ["port-forward", "service/gateway", ":8000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
            try:
                line = forward.stdout.readline()
                port = re.search(r"127\.0\.0\.1:(\d+)", line)
                assert port, line + self.trouble()
                yield f"http://127.0.0.1:{port[1]}"
            finally:
                forward.kill()
