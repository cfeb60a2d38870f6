import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from calls import STEP, Served

import model
import train
from settings import Settings


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A folder with a trained model. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    if kept := os.environ.get("TRAINED_MODEL"):  # a folder that train.py has filled before: that saves its seconds
        return shutil.copytree(kept, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_DIR", str(folder))
        train.main()
    return folder


@pytest.fixture
def start():
    """A function that runs `python app.py` with some settings; what it has started is gone after the test."""
    running = []

    def start(**settings) -> "Server":
        running.append(Server(settings))
        return running[-1]

    yield start
    for server in running:
        server.end()


class Server:
    """A process of the service, its address, what it has printed as JSON (`log`) and otherwise (`other`)."""

    def __init__(self, settings: dict):
        settings = {"port": 0, "model_format": "onnx", **settings}  # ONNX starts in a third of the time
        env = {**os.environ, **{name.upper(): str(value) for name, value in settings.items()}}
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=STEP, env=env, text=True, start_new_session=True, **streams
        )
        self.log: list[dict] = []
        self.other: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        with deadline(60) as left:
            # With workers, the address is told before any of them listens.
            while not (
                self.said("Uvicorn running")
                and len(self.said("Application startup complete")) == int(env.get("WORKERS", 1))
            ):
                assert self.process.poll() is None and left(), (self.log, self.other)
                time.sleep(0.02)
        self.address = self.said("Uvicorn running")[0].split()[3].removeprefix("http://")

    def said(self, beginning: str) -> list[str]:
        return [line["message"] for line in self.log if line["message"].startswith(beginning)]

    def end(self) -> None:
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


@contextmanager
def deadline(seconds: float):
    """A function that tells whether there is time left."""
    end = time.monotonic() + seconds
    yield lambda: time.monotonic() < end


@pytest.fixture(scope="module", params=["pickle", "onnx"])
def served(request, model_dir):
    """The service over REST and gRPC, with each format of the model."""
    with Served(Settings(model_dir=model_dir, model_format=request.param, grpc_port=0)) as served:
        yield served


@pytest.fixture(scope="module")
def onnx(model_dir):
    """The same with ONNX alone, for tests where the format makes no difference."""
    with Served(Settings(model_dir=model_dir, model_format="onnx", grpc_port=0)) as served:
        yield served


@pytest.fixture
def slow_model(monkeypatch):
    """A model that waits for `gate` before it answers. `begun` is set when it predicts, `rows` holds what it got."""

    class SlowModel:
        gate, begun, rows = threading.Event(), threading.Event(), []

        @classmethod
        def predict(cls, rows):
            cls.begun.set()
            assert cls.gate.wait(10)
            cls.rows += rows.tolist()
            return np.eye(10, dtype=np.float32)[rows[:, 0].astype(int) % 10]

    loaded = model.Model(SlowModel.predict, np.arange(10), "slow", "pickle")
    monkeypatch.setattr(model, "load", lambda folder, format: loaded)
    yield SlowModel
    SlowModel.gate.set()
