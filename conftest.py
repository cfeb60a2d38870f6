"""What goes for tests and notebooks alike."""

import importlib
import os
from pathlib import Path

import pytest

NEEDS = {  # a module that says what is missing for it: the notebooks, and the tag of cells in others
    "lab.containers": ("04_docker.ipynb", "needs-docker"),
    "lab.cluster": ("04_kubernetes.ipynb", "needs-cluster"),
}


def pytest_configure(config):
    """Let nbval leave measured numbers alone, from whichever folder it is started."""
    config.option.nbval_sanitize_with = Path(__file__).with_name("notebooks") / "measured.cfg"


def pytest_collection_modifyitems(items):
    """Skip cells of notebooks where what they need is missing; on the CI machine they run, and the first one fails."""
    if os.environ.get("CI"):
        return
    for module, (notebook, tag) in NEEDS.items():
        cells = [item for item in items if item.path.name == notebook or tag in tags(item)]
        reason = importlib.import_module(module).missing() if cells else ""
        for cell in cells if reason else []:
            cell.add_marker(pytest.mark.skip(reason=reason))


def tags(item):
    """The tags of a notebook's cell; a test in a Python file has none."""
    return item.cell["metadata"].get("tags", []) if hasattr(item, "cell") else []
