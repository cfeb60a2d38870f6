"""What a reader of the notebooks types in a terminal: the commands as they stand in the text."""

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys

import joblib
import pytest

from conftest import ROOT, skip, wait_until
from lab.launch import free_port

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are those for sh")


@pytest.fixture
def repository(tmp_path, trained):
    """A repository with a scratch folder as the first cells of 00 and 01 make it, and our environment."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    digit = json.loads((ROOT / "steps/01_flask/sample_request.json").read_text())
    pickled, served = (tmp_path / "notebooks/scratch" / name for name in ("00_pickle", "01_flask"))
    pickled.mkdir(parents=True)
    (pickled / "model.pkl").write_bytes(pickle.dumps(joblib.load(trained("01_flask") / "model.pkl")))
    (pickled / "digits.json").write_text(json.dumps([digit["features"]]))
    served.mkdir()
    shutil.copy(trained("01_flask") / "model.pkl", served)
    (served / "digit.json").write_text(json.dumps(digit))
    return tmp_path


def written_and_typed(repository, notebook) -> list[str]:
    """Write the files that a notebook's cells write. Return the commands that its text tells the reader to type."""
    cells = json.loads((ROOT / "notebooks" / notebook).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    for source in sources:
        if source.startswith("%%writefile "):
            first, _, content = source.partition("\n")
            (repository / "notebooks" / first.split()[1]).write_text(content)
    return re.findall(r"```sh\n(.*?)```", "\n".join(sources), re.DOTALL)


def test_the_pickle_is_loaded_in_a_terminal(repository):
    (command,) = written_and_typed(repository, "00_train_and_pickle.ipynb")
    assert subprocess.check_output(command, shell=True, cwd=repository, text=True, timeout=120) == "[3]\n"


def test_the_service_of_ten_lines_is_started_in_one_terminal_and_asked_in_another(repository):
    start, ask = written_and_typed(repository, "01_flask.ipynb")
    if not shutil.which("curl"):
        skip("no curl")
    port = free_port()
    env = {**os.environ, "PORT": str(port)}
    service = subprocess.Popen(
        start, shell=True, cwd=repository, env=env, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: listens(port) or service.poll() is not None, 60)
        answer = subprocess.check_output(
            ask.replace("8000", str(port)), shell=True, cwd=repository, text=True, timeout=60
        )
        assert answer == '{"prediction":[3]}\n'
    finally:
        os.killpg(service.pid, signal.SIGKILL)
        service.wait(timeout=30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
