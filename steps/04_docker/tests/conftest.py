"""Fixtures for the tests on real containers."""

import os

import pytest

from stack import Stack, missing


@pytest.fixture(scope="session", autouse=True)
def engine():
    """Skip where there is no Docker; on a CI machine, fail."""
    if reason := missing():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="module")
def stack():
    """The pipeline as compose.yaml has it, for the tests of one file. Each of them leaves it as it was."""
    with Stack() as stack:
        stack.up()
        yield stack
