"""JupyterLab as a reader meets it: opened by start.py, in a real browser, every notebook shown, the first one run."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import requests
from playwright.sync_api import expect

from conftest import ROOT, wait_until
from lab.launch import free_port

OPEN = """async (path) => {
    await jupyterapp.commands.execute("application:close-all");
    await jupyterapp.commands.execute("docmanager:open", { path });
}"""
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of what a reader has, since JupyterLab saves notebooks; the environment is ours."""
    folder = tmp_path_factory.mktemp("reader") / "inferir"
    ignored = shutil.ignore_patterns("model", ".venv", "__pycache__", ".*cache", ".ipynb_checkpoints")
    for name in ("notebooks", "steps"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("start.py", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    try:
        os.symlink(ROOT / ".venv", folder / ".venv")
    except OSError:
        pytest.skip("Windows makes symbolic links in developer mode only")
    return folder


@pytest.fixture(scope="module")
def lab(project):
    """The address of a JupyterLab that `start.py lab` with further arguments has started."""
    port = free_port()
    log = project / "lab.log"
    command = [sys.executable, "start.py", "lab", "--no-browser", f"--port={port}", "--IdentityProvider.token="]
    command.append("--LabApp.expose_app_in_browser=True")  # so that a test can open a notebook without a new page
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    own = {name: str(project / "jupyter" / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")}
    own["JUPYTERLAB_WORKSPACES_DIR"] = str(project / "jupyter" / "workspaces")  # or our tabs open in the user's lab
    with log.open("w") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        process = subprocess.Popen(command, cwd=project, env={**os.environ, **own}, **streams)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url) or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        return requests.get(url + "/api", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_the_lab_opens_at_the_first_notebook(lab, page):
    page.goto(lab)
    page.get_by_role("heading", name="Train a digit classifier and pickle it").wait_for()
    expect(page).to_have_url(re.compile(NOTEBOOKS[0]), timeout=20_000)  # after the heading
    page.locator(".jp-RenderedMermaid svg, .jp-RenderedMermaid img").first.wait_for()  # the diagram is drawn
    assert not page.get_by_text("Jupyter news").is_visible()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_opens_with_its_outputs_and_its_diagram_drawn(lab, page, name):
    if not page.url.startswith(lab):
        page.goto(lab)
        page.locator(".jp-Notebook h1").wait_for()
    page.evaluate(OPEN, f"notebooks/{name}")
    tab = page.locator("#jp-main-dock-panel .lm-TabBar-tab.lm-mod-current .lm-TabBar-tabLabel")
    expect(tab).to_have_text(name, timeout=20_000)
    notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    notebook.locator("h1").first.wait_for()
    diagram = notebook.locator(".jp-RenderedMermaid svg, .jp-RenderedMermaid img").first
    diagram.scroll_into_view_if_needed()
    diagram.wait_for()
    notebook.locator(".jp-OutputArea-output").first.wait_for(state="attached")
    errors = ".jp-mod-error, .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
    assert notebook.locator(errors).count() == 0


def test_run_all_reaches_the_end(lab, page, project):
    """Only the first cells, which import from notebooks/lab and a step: nbval runs all cells, in the same kernels."""
    path = project / "notebooks" / NOTEBOOKS[0]
    notebook = json.loads(path.read_text())
    notebook["cells"] = notebook["cells"][:12]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(execution_count=None, outputs=[])
    path.write_text(json.dumps(notebook))

    page.goto(f"{lab}/lab/tree/notebooks/{path.name}?reset")
    page.locator(".jp-Notebook h1").wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def finished():
        page.keyboard.press("ControlOrMeta+s")
        try:
            saved = json.loads(path.read_text())
        except ValueError:  # half saved
            return False
        cells = [cell for cell in saved["cells"] if cell["cell_type"] == "code"]
        failed = [cell for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
        assert not failed, failed[0]
        return [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))

    wait_until(finished, 300, pause=0.5)  # it saves the notebook each time
