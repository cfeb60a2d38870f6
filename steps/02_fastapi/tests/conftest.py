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
from fastapi import FastAPI
from starlette.testclient import TestClient

import app
import formats
import model
import train
from settings import Settings

STEP = Path(app.__file__).parent
ROW = json.loads((STEP / "sample_request.json").read_text())["features"]
PATHS = ["fast path", "plain FastAPI"]  # the service as it is, and with the line of FastPath deleted


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A model as train.py leaves it, in a folder of its own. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    if kept := os.environ.get("TRAINED_MODEL"):  # a folder that train.py has filled before: that saves its seconds
        return shutil.copytree(kept, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_DIR", str(folder))
        train.main()
    return folder


@pytest.fixture
def copy(model_dir, tmp_path) -> Path:
    return shutil.copytree(model_dir, tmp_path / "model")


@pytest.fixture(
    scope="session", params=[(path, format) for path in PATHS for format in ("pickle", "onnx")], ids=" ".join
)
def client(request, model_dir):
    path, format = request.param
    with pytest.MonkeyPatch.context() as patch:
        if path == "plain FastAPI":
            patch.setattr(app, "FastPath", lambda app: app)
        asgi = app.create_app(Settings(model_dir=model_dir, model_format=format))
    with TestClient(asgi) as client:
        yield client


@pytest.fixture(params=PATHS)
def path(request, monkeypatch) -> str:
    """Make create_app() build the service with FastPath or without."""
    if request.param == "plain FastAPI":
        monkeypatch.setattr(app, "FastPath", lambda app: app)
    return request.param


@pytest.fixture
def slow_model(monkeypatch):
    """Instead of loading a model, serve one that waits for its gate; `begun` says that it predicts."""

    class SlowModel:
        gate, begun, rows = threading.Event(), threading.Event(), []

        @classmethod
        def predict(cls, rows):
            cls.begun.set()
            assert cls.gate.wait(10)
            cls.rows += rows.tolist()
            return np.eye(10, dtype=np.float32)[rows[:, 0].astype(int) % 10]

    serve(monkeypatch, SlowModel.predict)
    yield SlowModel
    SlowModel.gate.set()


def serve(monkeypatch, predict) -> None:
    """Make the service serve this function as its model."""
    served = formats.Model(predict, np.arange(10), "made up", "pickle")
    monkeypatch.setattr(model, "load", lambda folder, format: served)


def posted(client, features, **headers):
    return client.post("/inferir", json={"features": features}, headers=headers)


def inner(asgi) -> FastAPI:
    """The FastAPI application within what create_app() returns."""
    while not isinstance(asgi, FastAPI):
        asgi = asgi.app
    return asgi


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
