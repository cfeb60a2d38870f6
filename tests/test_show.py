"""show() in a notebook whose reader has a browser that reaches JupyterLab alone, under a path as a hub gives it."""

import json
import sys
from types import SimpleNamespace

import pytest
import requests
from playwright.sync_api import Frame, Page, expect

import lab.launch
from conftest import ROOT, database_in
from lab.browser import show
from lab.launch import Service, free_port
from test_page import DIGITS, assert_answer, draw

BASE, TOKEN = "/user/x", "a-token"
CELLS = """\
from lab.browser import show
from lab.launch import launch, launch_pipeline
---
service = launch("02_fastapi", env={{"MODEL_DIR": {fastapi!r}}})
show(service, "/docs")
---
pipeline = launch_pipeline(MODEL_DIR={pipeline!r}, DATABASE_URL={database!r})
show(pipeline["gateway"])
---
env = {{f"{{name.upper()}}_URL": service.url for name, service in pipeline.items()}}
contained = launch("03_pipeline/gateway", env={{**env, "ROOT_PATH": ""}})
show(contained)
"""
MANUAL, PIPELINE, CONTAINED = range(3)  # what the frames show; a container does not know the path of its page


@pytest.fixture(scope="module")
def jupyter(trained, tmp_path_factory):
    """JupyterLab with a notebook, show.ipynb. Its url has the path that a hub gives to a user's server."""
    folder, own = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("jupyter")
    models = {name: str(trained(step)) for name, step in {"pipeline": "03_pipeline", "fastapi": "02_fastapi"}.items()}
    cells = [
        {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
        for source in CELLS.format(database=database_in(own), **models).split("---\n")
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}
    (folder / "show.ipynb").write_text(json.dumps(notebook))

    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.base_url={BASE}/", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    env = {name: str(own / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    env |= {"JUPYTERLAB_WORKSPACES_DIR": str(own / "workspaces"), "PYTHONPATH": str(ROOT / "notebooks")}
    with Service(command, folder, port, env) as server:
        server.wait(f"{BASE}/api", timeout=60)
        yield server.url + BASE


@pytest.fixture(scope="module")
def notebook(jupyter, page: Page):
    """The notebook, run. Whatever the browser asks for elsewhere it does not get, and the tests fail."""
    origin, elsewhere = jupyter.removesuffix(BASE), []

    def reach_jupyter_alone(route):
        if route.request.url.startswith(origin + "/"):
            return route.continue_()
        elsewhere.append(route.request.url)
        route.abort()

    page.context.route("**/*", reach_jupyter_alone)
    page.on("websocket", lambda socket: elsewhere.append(socket.url) if origin[4:] not in socket.url else None)
    page.goto(f"{jupyter}/lab/tree/show.ipynb?token={TOKEN}")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    expect(page.locator("iframe")).to_have_count(3)
    yield page
    assert elsewhere == []


def shown(notebook: Page, number: int) -> Frame:
    """What the frame number `number` of the notebook shows."""
    frame = notebook.locator("iframe").nth(number)
    frame.scroll_into_view_if_needed()
    return frame.element_handle().content_frame()


def try_out(frame: Frame, route: str) -> None:
    """Send a request of the manual, with the button for it."""
    frame.locator(".opblock", has_text=route).first.locator(".opblock-summary-control").click()
    frame.get_by_role("button", name="Try it out").click()
    frame.get_by_role("button", name="Execute").click()
    expect(frame.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


@pytest.mark.parametrize(("number", "digit"), [(PIPELINE, 3), (CONTAINED, 7)])
def test_a_digit_drawn_in_the_notebook_is_answered_and_listed(notebook, number, digit):
    gateway = shown(notebook, number)
    draw(gateway, DIGITS[digit])
    assert_answer(gateway, digit)
    expect(gateway.locator("#results tbody tr").first.locator("td, th").nth(1)).to_have_text(str(digit))


def test_the_manual_is_found_from_the_page_and_answers(notebook):
    gateway = shown(notebook, PIPELINE)
    gateway.get_by_role("link", name="manual").click()
    try_out(gateway, "/results/summary")


def test_the_manual_of_step_02_answers_in_the_notebook(notebook):
    manual = shown(notebook, MANUAL)
    try_out(manual, "/inferir")
    answer = json.loads(manual.locator(".live-responses-table .highlight-code code").first.inner_text())
    assert answer["prediction"] == [7]


def test_the_link_opens_the_page_in_a_tab(notebook):
    with notebook.expect_popup() as popup:
        notebook.get_by_role("link", name="Open the page in a tab of its own").nth(PIPELINE).click()
    expect(popup.value.get_by_role("heading", name="inferir")).to_be_visible()
    popup.value.close()


def test_nobody_reaches_a_service_without_the_token_of_jupyter(jupyter, notebook):
    address = jupyter.removesuffix(BASE) + notebook.locator("iframe").nth(MANUAL).get_attribute("src")
    assert requests.get(address, params={"token": TOKEN}, timeout=10).ok
    for method in ("GET", "POST"):
        assert requests.request(method, address, timeout=10, allow_redirects=False).status_code in (302, 403)


def test_without_jupyterlab_a_service_is_shown_at_its_own_address(monkeypatch, tmp_path):
    monkeypatch.setattr(lab.launch, "jupyter_runtime_dir", lambda: tmp_path)
    service = SimpleNamespace(url="http://127.0.0.1:8000", port=8000)
    assert '<iframe src="http://127.0.0.1:8000/docs"' in show(service, "/docs").data
