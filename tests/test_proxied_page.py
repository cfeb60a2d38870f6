"""The page of step 03 behind a real proxy, which serves it under a path: Jupyter's, as JupyterHub and Binder use it."""

import sys

import pytest
import requests
from playwright.sync_api import expect

from conftest import serve_all
from lab.launch import Service, free_port, launch
from test_page import DIGITS, assert_answer, draw

BASE = "/user/x"  # the path of a user's server behind a hub


def jupyter(folder) -> Service:
    """A Jupyter server. At BASE/proxy/PORT/ it passes on what it gets, without that path."""
    port = free_port()
    command = [sys.executable, "-m", "jupyter", "server", "--no-browser", f"--ServerApp.port={port}", "--allow-root"]
    command += [f"--ServerApp.base_url={BASE}/", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    return Service(command, folder, port, {"JUPYTER_CONFIG_DIR": str(folder), "JUPYTER_DATA_DIR": str(folder)})


@pytest.fixture(scope="module")
def proxied(trained, tmp_path_factory):
    """The address of a gateway behind the proxy."""
    port = free_port()
    with serve_all("03_pipeline", MODEL_DIR=str(trained("03_pipeline"))) as services:
        env = {f"{name.upper()}_URL": services[name].url for name in ("preprocess", "inference", "storage")}
        env["ROOT_PATH"] = f"{BASE}/proxy/{port}"
        with launch("03_pipeline/gateway", env=env, port=port), jupyter(tmp_path_factory.mktemp("jupyter")) as server:
            server.wait(f"{BASE}/api", timeout=60)
            yield f"{server.url}{BASE}/proxy/{port}"


def test_a_digit_is_drawn_answered_and_listed(proxied, page):
    missing = []
    page.on("response", lambda response: missing.append(response.url) if response.status >= 400 else None)
    page.goto(proxied + "/")
    draw(page, DIGITS[3])
    assert_answer(page, 3)
    expect(page.locator("#results tbody tr").first.locator("td, th").nth(1)).to_have_text("3")
    assert missing == []


def test_the_manual_is_found_and_answers(proxied, page):
    page.goto(proxied + "/")
    page.get_by_role("link", name="manual").click()
    page.locator(".opblock", has_text="/results/summary").locator(".opblock-summary-control").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_a_path_that_the_proxy_leaves_in_front_is_served_too(proxied):
    root_path, port = proxied.partition(BASE)[2], proxied.rpartition("/")[2]
    url = f"http://127.0.0.1:{port}{BASE}{root_path}/services"
    assert requests.get(url, timeout=10).json()["storage"]["ready"]
