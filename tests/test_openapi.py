"""Requests made from a step's OpenAPI document, valid and not, to find what breaks it or belies its manual."""

import re
import subprocess
import sys

import pytest

from conftest import ROOT
from launch import launch

STEPS = ["02_fastapi"]


@pytest.mark.parametrize("step", STEPS)
def test_a_thousand_made_up_requests_break_nothing_and_are_answered_as_the_manual_says(step, trained, tmp_path):
    options = ["--max-examples=150", "--seed=1", "--no-color"]
    command = [sys.executable, "-m", "schemathesis.cli", f"--config-file={ROOT}/tests/schemathesis.toml", "run"]
    with launch(step, env={"MODEL_DIR": str(trained(step)), "MODEL_FORMAT": "onnx"}) as service:
        command += [service.url + "/openapi.json", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) >= 1_000
