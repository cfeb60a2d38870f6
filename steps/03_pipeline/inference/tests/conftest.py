import os
import shutil
from pathlib import Path

import pytest
from calls import Served
from made_up import write_model
from process import PYTHON, Server

import train
from settings import Settings
from typescript import installed_service


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


@pytest.fixture(scope="session")
def slow_model_dir(tmp_path_factory) -> Path:
    """A folder with a model that takes about half a second for a call."""
    return write_model(tmp_path_factory.mktemp("slow"), seconds=0.5)


@pytest.fixture(scope="session")
def typescript():
    """The command of the service in TypeScript, and the folder to run it in."""
    with installed_service() as (node, folder):
        yield [node, "app.ts"], folder


@pytest.fixture(scope="session", params=["python", "typescript"])
def program(request):
    """The same in each language."""
    return PYTHON if request.param == "python" else request.getfixturevalue("typescript")


@pytest.fixture
def start():
    """A function that runs the service with some settings; what it has started is gone after the test."""
    running = []

    def start(program=PYTHON, **settings) -> Server:
        running.append(Server(settings, program))
        return running[-1]

    yield start
    for server in running:
        server.end()


@pytest.fixture(scope="session")
def onnx(program, model_dir):
    """The service as a process, in each language, with the ONNX file that train.py has made."""
    server = Server({"model_dir": model_dir, "grpc_port": 0}, program)
    yield server
    server.end()


@pytest.fixture(scope="module", params=["pickle", "onnx", "typescript"])
def served(request, model_dir):
    """The service over REST and gRPC with each format of the model. In TypeScript it has no REST: that is Python's."""
    format = "pickle" if request.param == "pickle" else "onnx"
    with Served(Settings(model_dir=model_dir, model_format=format, grpc_port=0)) as served:
        if request.param != "typescript":
            yield served
            return
        server = Server({"model_dir": model_dir, "grpc_port": 0}, request.getfixturevalue("typescript"))
        served.stub = server.stub
        yield served
        server.end()
