import os
import shutil
import sys
from pathlib import Path

import pytest

from ports import free_settings, free_wires
from runs import READY, STEP, reaped

sys.path.insert(0, str(STEP))  # where addresses.py is, from wherever pytest was started


@pytest.fixture
def settings() -> dict[str, str]:
    return free_settings()


@pytest.fixture
def wires() -> dict[str, str]:
    """Settings for gRPC and a broker, to put over those of `settings`."""
    return free_wires()


@pytest.fixture
def step(tmp_path) -> Path:
    """A copy of run.py beside stand-ins for the services, which start in no time."""
    folder, stand_ins = tmp_path / "step", Path(__file__).parent / "stand_ins"
    for service in ("gateway", "preprocess", "inference", "storage"):
        (folder / service).mkdir(parents=True)
        shutil.copy(stand_ins / "app.py", folder / service)
    shutil.copy(stand_ins / "train.py", folder / "inference")
    (folder / "broker").mkdir()
    shutil.copy(STEP / "broker" / "nats.conf", folder / "broker")
    for program in ("run.py", "supervisor.py", "addresses.py", "node.py"):
        shutil.copy(STEP / program, folder)
    return folder


@pytest.fixture
def change(step):
    """A function that changes a line of one of the copied programs."""

    def change(program: str, old: str, new: str) -> None:
        text = (step / program).read_text()
        assert old in text
        (step / program).write_text(text.replace(old, new))

    return change


@pytest.fixture
def run(step, settings):
    """A function that runs the pipeline of stand-ins."""
    with reaped() as start_run:
        yield lambda *arguments, cwd=None, **more: start_run(step, arguments, {**settings, **more}, cwd)


@pytest.fixture(scope="session")
def start_run():
    with reaped() as start_run:
        yield start_run


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    """A copy of a trained model. If there is none, the folder does not exist, and run.py trains one into it."""
    folder = tmp_path_factory.mktemp("model") / "model"
    trained = Path(os.environ.get("TRAINED_MODEL") or STEP / "inference" / "model")
    if trained.exists():
        shutil.copytree(trained, folder)
    return folder


@pytest.fixture(scope="session")
def real(start_run, model_dir, tmp_path_factory):
    """The services themselves over REST, with a database of their own."""
    database = f"sqlite:///{tmp_path_factory.mktemp('real').as_posix()}/results.db"
    run = start_run(STEP, (), free_settings() | {"MODEL_DIR": str(model_dir), "DATABASE_URL": database})
    run.wait_for(READY, timeout=300)  # it may train, on a slow machine
    return run


@pytest.fixture(scope="session")
def wired(start_run, real, tmp_path_factory):
    """The services themselves over gRPC and a broker, with the model of `real`."""
    folder = tmp_path_factory.mktemp("wired")
    own = {
        "BROKER_DIR": str(folder / "broker"),
        "DATABASE_URL": f"sqlite:///{folder.as_posix()}/results.db",
        "MODEL_DIR": real.settings["MODEL_DIR"],
    }
    run = start_run(STEP, ("--wires", "grpc,nats"), free_settings() | free_wires() | own)
    run.wait_for(READY)
    return run
