"""Fixtures for the tests that span steps."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import start

ROOT = Path(__file__).parent.parent
STEPS = ROOT / "steps"


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a browser for Playwright."""
    path = next(filter(None, map(shutil.which, start.BROWSERS)), None)
    if not path:
        skip("no browser: install Chrome or Chromium")
    return path


def skip(reason: str) -> None:
    """Skip a test for what this machine lacks; on the CI machine, which lacks nothing, fail it."""
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A function from a step's name to a folder with its freshly trained model. Copy it before you change it."""
    folders: dict[str, Path] = {}

    def train(step: str) -> Path:
        if step not in folders:
            folder = tmp_path_factory.mktemp(step) / "model"
            command = [sys.executable, "train.py"]
            subprocess.run(
                command, cwd=STEPS / step, env={**os.environ, "MODEL_DIR": str(folder)}, check=True, timeout=300
            )
            folders[step] = folder
        return folders[step]

    return train
