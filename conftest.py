"""What goes for tests and notebooks alike."""

import os

import pytest
from xdist.scheduler import LoadScopeScheduling

LONGEST = ["tests/test_containers.py", "notebooks", "tests/test_starters.py", "tests/test_wires.py"]


def pytest_collection_modifyitems(items):
    """Put the longest first: two processes, each with a part of the tests, then end at the same time.

    The notebook of containers is skipped where there are none; on the CI machine it runs, and its first check fails.
    """
    items.sort(key=lambda item: (LONGEST + [part(item.nodeid)]).index(part(item.nodeid)))
    cells = [item for item in items if item.path.name == "04_docker.ipynb"]
    if cells and not os.environ.get("CI"):
        from containers import missing

        reason = missing()
        for cell in cells if reason else []:
            cell.add_marker(pytest.mark.skip(reason=reason))


def part(nodeid: str) -> str:
    """What has to run in one process: a file of tests, which share services; all notebooks, which share models."""
    return nodeid.partition("/" if nodeid.startswith("notebooks/") else "::")[0]


class Parts(LoadScopeScheduling):
    """Gives a part to whichever process is free."""

    def _split_scope(self, nodeid: str) -> str:
        return part(nodeid)


def pytest_xdist_make_scheduler(config, log):
    return Parts(config, log)


def pytest_terminal_summary(terminalreporter):
    """Print what tests have found worth showing, by record_property."""
    for report in terminalreporter.getreports("passed"):
        for title, text in report.user_properties:
            terminalreporter.section(title)
            terminalreporter.write_line(text)
