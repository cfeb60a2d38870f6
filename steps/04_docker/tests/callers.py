"""Callers in a pod of another namespace: they ask the pipeline in the cluster as its clients would."""

import json
import subprocess
import threading
import uuid
from pathlib import Path

from cluster import KUBECTL, Pipeline, remove, run
from load import DRAWING, ROW, Answer
from stack import wait_until

SENT = [  # by eight callers
    *6 * [{"data": json.dumps({"features": ROW}).encode().hex(), "headers": {"Content-Type": "application/json"}}],
    *2 * [{"data": DRAWING["data"].hex(), "headers": DRAWING["headers"]}],
]


class Stranger:
    """A pod in another namespace, with Python and aiohttp. Use it with `with`."""

    def __init__(self, image: str):
        self.image, self.namespace = image, f"stranger-{uuid.uuid4().hex[:8]}"
        self.kubectl = [*KUBECTL, f"--namespace={self.namespace}"]
        self.exec = [*self.kubectl, "exec", "stranger", "--"]

    def start(self) -> None:
        run(*KUBECTL, "create", "namespace", self.namespace)
        # Without a request of CPU, the callers would hardly ask on a busy machine.
        cpu = {"spec": {"containers": [{"name": "stranger", "resources": {"requests": {"cpu": "200m"}}}]}}
        override = "--override-type=strategic", f"--overrides={json.dumps(cpu)}"
        command = "--command", "--", "sleep", "infinity"
        run(*self.kubectl, "run", "stranger", f"--image={self.image}", *override, *command)
        run(*self.kubectl, "wait", "pod/stranger", "--for=condition=Ready", "--timeout=60s")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_) -> None:
        remove(self.namespace)


class Callers:
    """While the block runs, eight callers in the stranger's pod ask the gateway. `answers` holds every answer."""

    def __init__(self, stranger: Stranger, pipeline: Pipeline, pause: float = 0.5):
        """`pause`: seconds that each caller waits between its requests."""
        url = f"http://gateway.{pipeline.namespace}:8000/inferir"
        self.answers: list[Answer] = []
        self._said = ""  # what is no answer
        self._name, self._stranger = uuid.uuid4().hex[:8], stranger
        asked = json.dumps({"url": url, "pause": pause, "sent": SENT, "name": self._name})
        self._command = [*stranger.exec, "python", "-c", (Path(__file__).parent / "call.py").read_text("utf-8"), asked]

    def __enter__(self):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.wait_for(20)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        try:
            run(*self._stranger.exec, "touch", f"/tmp/{self._name}")
            self._process.wait(60)
        finally:
            self._process.kill()
            self._reader.join()

    def _read(self) -> None:
        for line in self._process.stdout:
            if line.startswith("["):
                self.answers.append(Answer(*json.loads(line)))
            else:
                self._said += line

    def wait_for(self, answers: int, seconds: float = 60) -> None:
        """Return after this many more answers."""
        enough = len(self.answers) + answers
        wait_until(lambda: len(self.answers) >= enough or self._process.poll() is not None, seconds)
        if self._process.poll() is not None:
            raise RuntimeError(f"the callers have ended: {self._said}")

    def since(self, begin: float) -> list[Answer]:
        """The answers to what was asked since then, in seconds since 1970."""
        return [answer for answer in self.answers if answer.at >= begin]
