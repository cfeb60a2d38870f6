import os
import shutil
from pathlib import Path

import pytest

import app
import train


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


@pytest.fixture(scope="session")
def client(model_dir):
    return app.create_app(model_dir).test_client()
