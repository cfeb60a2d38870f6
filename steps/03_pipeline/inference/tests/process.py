"""A process of the service, in Python or in TypeScript, and what a client sees of it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import grpc
import httpx2
from calls import STEP
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client.parser import text_string_to_metric_families

from open_inference_pb2_grpc import GRPCInferenceServiceStub

PYTHON: tuple[list[str | Path], Path] = ([sys.executable, "app.py"], STEP)  # a command, and where to run it


@contextmanager
def deadline(seconds: float) -> Iterator[Callable[[], bool]]:
    """A function that tells whether there is time left."""
    end = time.monotonic() + seconds
    yield lambda: time.monotonic() < end


def environment(settings: dict) -> dict[str, str]:
    settings = {"port": 0, "model_format": "onnx", **settings}  # ONNX starts in a third of the time
    return {**os.environ, **{name.upper(): str(value) for name, value in settings.items()}}


class Server:
    """Its addresses and clients, and what it has printed as JSON (`log`) and otherwise (`other`)."""

    def __init__(self, settings: dict, program: tuple[list[str | Path], Path] = PYTHON):
        command, folder = program
        env = environment(settings)
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(command, cwd=folder, env=env, text=True, start_new_session=True, **streams)
        self.log: list[dict] = []
        self.other: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        workers = int(env.get("WORKERS", 1)) if program == PYTHON else 0
        try:
            with deadline(60) as left:
                # With workers, the address is told before any of them listens.
                while not (self._http() and len(self.said("Application startup complete")) == workers):
                    assert self.process.poll() is None and left(), (self.log, self.other)
                    time.sleep(0.02)
        except BaseException:
            self.end()
            raise
        self.address = self._http()[0]

    def _http(self) -> list[str]:
        found = (re.match(r"(?:Uvicorn|HTTP) running on (?:http://)?(\S+)", line["message"]) for line in [*self.log])
        return [match[1] for match in found if match]

    def said(self, beginning: str) -> list[str]:
        return [line["message"] for line in [*self.log] if line["message"].startswith(beginning)]

    @property
    def grpc_address(self) -> str:
        return self.said("gRPC running")[0].split()[3]

    @property
    def port(self) -> int:
        return int(self.grpc_address.rpartition(":")[2])

    def connect(self, **options) -> grpc.Channel:
        return grpc.insecure_channel(self.grpc_address, **options)

    @cached_property
    def channel(self) -> grpc.Channel:
        return self.connect()

    @cached_property
    def stub(self) -> GRPCInferenceServiceStub:
        return GRPCInferenceServiceStub(self.channel)

    @cached_property
    def health(self) -> HealthStub:
        return HealthStub(self.channel)

    @cached_property
    def rest(self) -> httpx2.Client:
        return httpx2.Client(base_url=f"http://{self.address}", timeout=20, trust_env=False)

    def measured(self, name: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.rest.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return sum(sample.value for sample in samples if (sample.name, sample.labels) == (name, labels))

    def logged_calls(self, beginning: str, count: int) -> list[dict]:
        """Wait for `count` lines about calls whose id begins like this."""
        return self._wait_for(count, lambda line: "method" in line and line["request_id"].startswith(beginning))

    def logged_errors(self, count: int) -> list[dict]:
        """Wait for `count` lines about errors."""
        return self._wait_for(count, lambda line: line["level"] == "ERROR")

    def _wait_for(self, count: int, wanted: Callable[[dict], bool]) -> list[dict]:
        """Wait for `count` lines of the log, which come shortly after the responses."""
        with deadline(10) as left:
            while len(found := [line for line in [*self.log] if wanted(line)]) < count:
                assert left(), found
                time.sleep(0.02)
        return found

    def end(self) -> None:
        for client in ("channel", "rest"):
            if client in vars(self):
                vars(self)[client].close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # workers too
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.other.append(line)
