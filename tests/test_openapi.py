"""Requests made from a service's OpenAPI document, valid and invalid: nothing breaks, and the manual is right."""

import re
import subprocess
import sys

import pytest

from conftest import ROOT, database_in, serve
from lab.launch import launch

# A service joins with a line here: its folder, and the fewest requests that its document must give rise to.
SERVICES = {
    "02_fastapi": 450,
    "03_pipeline+grpc,nats": 180,  # its gateway, with the others behind it. Over REST, its document is the same
    "03_pipeline/preprocess": 70,
    "03_pipeline/storage": 300,
}


@pytest.mark.parametrize("name", SERVICES)
def test_made_up_requests_break_nothing_and_are_answered_as_the_manual_says(name, trained, tmp_path):
    # Not "stateful": our documents have no links from one operation to the next.
    options = ["--phases=examples,coverage,fuzzing", "--max-examples=30", "--seed=1", "--no-color"]
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={ROOT}/tests/schemathesis.toml", "run"]
    step, _, part = name.partition("/")
    env = {"MODEL_DIR": str(trained(step)), "MODEL_FORMAT": "onnx", "DATABASE_URL": database_in(tmp_path)}
    with launch(name, env=env) if part else serve(step, **env) as service:
        command += [service.url + "/openapi.json", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) >= SERVICES[name]
