"""Fixtures for the tests that span steps."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

import start
from lab.launch import Service, launch, launch_pipeline, stop_all
from trained import trained as kept_model

ROOT = Path(__file__).parent.parent
STEPS = ROOT / "steps"

PATIENCE_MS = 60_000  # a busy machine needs more than the usual five and thirty seconds
expect.set_options(timeout=PATIENCE_MS)

# What is proven here is not how fast a busy machine is. The page waits for 8 s.
DEADLINE = 6  # seconds, of each gateway that these tests start
os.environ |= {"DEADLINE_SECONDS": str(DEADLINE), "CONNECT_SECONDS": "1"}

# A shell that starts the tests in the background has SIGINT ignored, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a browser for Playwright."""
    path = next(filter(None, map(shutil.which, start.BROWSERS)), None)
    if not path:
        skip("no browser: install Chrome or Chromium")
    return path


@pytest.fixture(scope="module")
def page(browser):
    """A tab of that browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1300, "height": 950})
        page.set_default_timeout(PATIENCE_MS)
        # On a busy machine JupyterLab may lose its server for a moment. It says so in a dialog, and connects again.
        lost = page.locator(".jp-Dialog", has_text="Server Connection Error")
        page.add_locator_handler(lost, lambda dialog: dialog.get_by_role("button", name="Close").click())
        yield page
        chromium.close()


@contextmanager
def another_tab(page: Page, **options) -> Iterator[Page]:
    """A tab of the same browser that shares nothing with `page`. The options are those of a browser's context."""
    context = page.context.browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    try:
        yield context.new_page()
    finally:
        context.close()


def skip(reason: str) -> None:
    """Skip a test because this machine lacks something. The CI machine lacks nothing: there, the test fails."""
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.fixture(scope="session")
def trained() -> Callable[[str], Path]:
    """A function from a step's name to a folder with its trained model. Copy it before you change it."""
    return kept_model


@contextmanager
def serve(step: str, wait_for: str = "/readyz", **env: str) -> Iterator[Service]:
    """Run a step, however many services it has, and return the one that clients talk to. After a "+" it names wires."""
    with serve_all(step, wait_for, **env) as services:
        yield services["gateway"]


@contextmanager
def serve_all(step: str, wait_for: str = "/readyz", **env: str) -> Iterator[dict[str, Service]]:
    """Run a step in the same way, and give its services. One that stands alone is its own gateway and inference."""
    step, _, wires = step.partition("+")
    if not (STEPS / step / "gateway").exists():
        with launch(step, env=env, wait_for=wait_for) as service:
            yield {"gateway": service, "inference": service}
        return
    with tempfile.TemporaryDirectory() as folder:
        services = launch_pipeline(
            step, wait_for, wires, **{"DATABASE_URL": database_in(folder), "BROKER_DIR": folder, **env}
        )
        try:
            yield services
        finally:
            stop_all(*services.values())


def database_in(folder: str | Path) -> str:
    return f"sqlite:///{Path(folder).as_posix()}/results.db"


def wait_until(condition: Callable[[], bool], timeout: float = 10, pause: float = 0.02) -> None:
    """Return when the condition holds; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout} s"
        time.sleep(pause)
