"""Fixtures for the tests on real containers."""

import os

import pytest

from stack import Stack, missing


@pytest.fixture(scope="session", autouse=True)
def engine():
    """Skip the tests where there is no Docker; on a CI machine, fail them."""
    if reason := missing():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="session")
def stack():
    """The pipeline of compose.yaml. Tests that use it leave it as it was. Files that need another one override this."""
    with Stack() as stack:
        stack.up()
        yield stack
