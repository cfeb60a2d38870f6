"""The pipeline in a cluster that kind made, in a namespace of its own: start, ask, change and remove it from Python."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

from changing import change, copy_steps
from stack import STEP, Stack, missing

CONTEXT = "kind-kind"  # no other: yours may be the cluster that you work with
KUBECTL = ["kubectl", f"--context={CONTEXT}"]
PREFIX = "inferir-test"  # of the images, so that yours stay as they are
DEPLOYMENTS = ["gateway", "preprocess", "inference", "storage"]
WORKLOADS = [*(f"deployment/{name}" for name in DEPLOYMENTS), "statefulset/broker", "statefulset/database"]
TYPESCRIPT = "{name: inferir-inference, newName: inferir-inference-ts}"
START_SECONDS = 240
PATIENCE = {"DEADLINE_SECONDS": 20, "CONNECT_SECONDS": 2}  # of the gateway


def lacking() -> str:
    """Say in a sentence what this machine needs for a cluster; "" if it has everything."""
    if reason := missing():
        return reason
    for program in ("kind", "kubectl", "bash"):
        if not shutil.which(program):
            return f"{program} is not installed: see the section on Kubernetes in the README"
    return ""


def is_there() -> bool:
    """Whether the cluster of CONTEXT answers."""
    try:
        run(*KUBECTL, "--request-timeout=60s", "get", "--raw=/readyz")
    except (RuntimeError, OSError, subprocess.TimeoutExpired):
        return False
    return True


@contextlib.contextmanager
def running_cluster() -> Iterator[None]:
    """The cluster of CONTEXT. If it does not answer, it is created, and deleted at the end."""
    created = not is_there()
    if created:
        run("kind", "create", "cluster", "--config", str(STEP / "kubernetes/kind.yaml"), seconds=600)
    try:
        yield
    finally:
        if created:
            run("kind", "delete", "cluster")


def run(*command: str, seconds: float = 120, folder: Path | None = None, **env: str) -> str:
    """Run a command and return what it prints. Raises RuntimeError with what it said."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-6000:]}")
    return done.stdout


def remove(namespace: str) -> None:
    """Delete a namespace at once."""
    kubectl = [*KUBECTL, f"--namespace={namespace}"]
    # Pods would wait 45 s before they end, and what they belong to would start them again.
    run(*kubectl, "delete", "deployments,replicasets,statefulsets", "--all", "--cascade=orphan")
    run(*kubectl, "delete", "pods", "--all", "--force", "--grace-period=0")
    run(*KUBECTL, "delete", "namespace", namespace, "--ignore-not-found", "--timeout=120s", seconds=150)


def remove_images(prefix: str) -> None:
    """Remove what Docker has. The nodes of the cluster keep theirs."""
    found = run("docker", "image", "ls", "--format={{.Repository}}:{{.Tag}}", f"--filter=reference={prefix}-*")
    if found:
        run("docker", "image", "rm", "--force", *found.split())


class Pipeline:
    """The pipeline as the README starts it, from a copy of both folders, but in a namespace of its own.

    Use it with `with`: at the end, the namespace is deleted.
    """

    def __init__(self, place: Path, prefix: str = PREFIX):
        self.namespace, self.prefix = f"inferir-{uuid.uuid4().hex[:8]}", prefix
        self.folder = copy_steps(place)
        self.manifests = self.folder / "kubernetes"
        for name in ("base", "local", "scaled", "typescript"):
            ours = f"namespace: {self.namespace}\n"
            change(self.manifests / name / "kustomization.yaml", ("namespace: inferir\n", ours))
        # A busy machine is no failure here.
        more = [f'            - {{name: {name}, value: "{seconds}"}}\n' for name, seconds in PATIENCE.items()]
        change(self.manifests / "base/gateway.yaml", ("          env:\n", "".join(["          env:\n", *more])))
        change(self.manifests / "base/namespace.yaml", ("name: inferir\n", f"name: {self.namespace}\n"))
        change(self.manifests / "typescript/kustomization.yaml", (TYPESCRIPT, TYPESCRIPT.replace("inferir", prefix)))
        local = self.manifests / "local/kustomization.yaml"
        text = re.sub(r"inferir-(\w+), ", rf"inferir-\1, newName: {prefix}-\1, ", local.read_text("utf-8"))
        label = f"labels: [{{pairs: {{pipeline: {self.namespace}}}, includeTemplates: true}}]\n"  # to drain ours alone
        local.write_text(text + label, "utf-8")

    def own(self, text: str) -> str:
        """A text of the README with the names of this pipeline."""
        text = re.sub(r"(?<=-n )inferir\b", self.namespace, text)
        text = re.sub(r"\binferir(?=-[\w-]+:local)", self.prefix, text)
        return re.sub(r"^kubectl\b", " ".join(KUBECTL), text, flags=re.MULTILINE)

    def section(self) -> str:
        return (self.folder / "README.md").read_text("utf-8").split("\n## Kubernetes\n")[1].split("\n## ")[0]

    def readme(self) -> list[str]:
        """The commands of the README's section on Kubernetes, by step: create and load, start, ask, change."""
        scripts = re.findall(r"^```bash\n(.*?)^```$", self.section(), re.MULTILINE | re.DOTALL)
        return [re.sub(r"^kind create cluster.*\n", "", self.own(script), flags=re.MULTILINE) for script in scripts]

    def follow(self, script: str) -> str:
        """Run commands of the README in the copy."""
        return run("bash", "-ec", script, seconds=1200, folder=self.folder, COMPOSE_PROJECT_NAME=self.prefix)

    def build(self) -> None:
        """Build the images and load them into the cluster."""
        names = "jsonpath={range .items[*]}{.status.images[*].names}{'\\n'}{end}"  # a line for each node
        if not all("postgres:17" in node for node in run(*KUBECTL, "get", "nodes", f"--output={names}").splitlines()):
            with contextlib.suppress(RuntimeError):  # it saves a download: without it, the cluster fetches the image
                run("kind", "load", "docker-image", "postgres:17", seconds=300)
        self.follow(self.readme()[0])

    def start(self) -> None:
        self.follow(self.readme()[1])
        self.wait_until_ready()

    def __enter__(self):
        try:
            self.build()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        remove(self.namespace)
        remove_images(self.prefix)

    def kubectl(self, *arguments: str, seconds: float = 120) -> str:
        return run(*KUBECTL, f"--namespace={self.namespace}", *arguments, seconds=seconds)

    def apply(self, overlay: dict, name: str) -> None:
        """Write an overlay into a folder beside local/ and apply it."""
        (self.manifests / name).mkdir()
        (self.manifests / name / "kustomization.yaml").write_text(json.dumps(overlay))
        self.kubectl("apply", "--kustomize", str(self.manifests / name))

    def wait_until_ready(self, *workloads: str, seconds: int = START_SECONDS) -> None:
        """Wait for these workloads or for all. Raises RuntimeError with the cluster's events and the last log lines."""
        for name in workloads or WORKLOADS:
            try:
                self.kubectl("rollout", "status", name, f"--timeout={seconds}s", seconds=seconds + 30)
            except RuntimeError as error:
                raise RuntimeError(f"{name} does not become ready: {error}\n{self.trouble()}") from None

    def drain(self, node: str) -> None:
        """Move this pipeline's pods to other nodes. Raises RuntimeError with the cluster's events and log lines."""
        ours = f"--pod-selector=pipeline={self.namespace}"
        options = "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={START_SECONDS}s"
        try:
            self.kubectl("drain", node, ours, *options, seconds=START_SECONDS + 30)
        except RuntimeError as error:
            raise RuntimeError(f"{node} cannot be drained: {error}\n{self.trouble()}") from None

    def trouble(self) -> str:
        """What the cluster and the pods say."""
        said = [self.kubectl("get", "pods", "--output=wide"), self.kubectl("events", "--types=Warning")[-4000:]]
        for pod in self.kubectl("get", "pods", "--output=name").split():
            with contextlib.suppress(RuntimeError):  # a container that has not started has no log
                said.append(f"{pod}\n{self.kubectl('logs', pod, '--tail=8')}")
        return "\n".join(said)

    def pods(self, service: str = "", ending: bool = True) -> list[dict]:
        """All pods or those of a service. Without `ending`, only those that are to stay."""
        chosen = [f"--selector=app={service}"] if service else []
        found = json.loads(self.kubectl("get", "pods", "--output=json", *chosen))["items"]
        return [pod for pod in found if ending or "deletionTimestamp" not in pod["metadata"]]

    def names(self, *services: str, ending: bool = True) -> set[str]:
        return {pod["metadata"]["name"] for service in services for pod in self.pods(service, ending)}

    sql = Stack.sql  # all that it needs is run_in()

    def run_in(self, service: str, *command: str) -> str:
        """Run a command in a pod of the service."""
        kind = "statefulset" if service in ("broker", "database") else "deployment"
        return self.kubectl("exec", f"{kind}/{service}", "--", *command)


@contextlib.contextmanager
def forwarded(command: str) -> Iterator[str]:
    """While the block runs, `kubectl port-forward` of the README does too. Gives the URL, with a free port."""
    words = [*command.split()[:-1], f":{command.split()[-1]}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        assert forward.stdout
        try:
            line = forward.stdout.readline()
            port = re.search(r"127\.0\.0\.1:(\d+)", line)
            if not port:
                raise RuntimeError(line + forward.stdout.read())
            yield f"http://127.0.0.1:{port[1]}"
        finally:
            forward.kill()


@contextlib.contextmanager
def cached_names(seconds: int = 30) -> Iterator[None]:
    """While the block runs, the cluster's DNS answers from a cache, as that of many clusters does."""

    def corefile() -> dict:
        return json.loads(run(*kubectl, "get", "configmap", "coredns", "--output=json"))

    def use(data: dict) -> None:
        run(*kubectl, "patch", "configmap", "coredns", f"--patch={json.dumps({'data': data})}")
        found = run(*kubectl, "get", "daemonsets,deployments", "--selector=k8s-app=kube-dns", "--output=name")
        for name in found.split():
            run(*kubectl, "rollout", "restart", name)
            run(*kubectl, "rollout", "status", name, "--timeout=90s")

    kubectl = [*KUBECTL, "--namespace=kube-system"]
    before = corefile()["data"]
    line = r"^(\s*)cache\b.*?(\{.*?\}|$)"
    cached, count = re.subn(line, rf"\1cache {seconds}", before["Corefile"], flags=re.MULTILINE | re.DOTALL)
    if not count:
        raise RuntimeError(f"this cluster's DNS has no cache: {before}")
    use({"Corefile": cached})
    try:
        yield
    finally:
        use(before)
