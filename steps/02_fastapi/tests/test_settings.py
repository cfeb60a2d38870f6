"""Settings, all of them environment variables."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import app
from chassis import server
from conftest import ROW
from settings import Settings, read_settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "eighty"), ("PORT", "99999"), ("WORKERS", "0"), ("MODEL_FORMAT", "pmml"), ("MAX_BODY_BYTES", "1e9")],
)
def test_a_setting_that_makes_no_sense_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()


def test_settings_come_from_the_environment_and_an_empty_one_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("PORT", "")
    monkeypatch.setenv("HOST", "0.0.0.0")
    started = []
    monkeypatch.setattr(server, "run", lambda factory, settings: started.append((factory, settings)))
    runpy.run_path(app.__file__, run_name="__main__")
    ((factory, settings),) = started
    assert factory == "app:create_app"
    assert (settings.host, settings.port, settings.model_dir) == ("0.0.0.0", 8000, tmp_path)


@pytest.mark.parametrize("prefix", ["", "/digits"])  # a proxy may cut it off
def test_everything_is_served_under_a_root_path(model_dir, monkeypatch, prefix):
    with TestClient(app.create_app(Settings(model_dir=model_dir, root_path="/digits/"))) as client:
        assert client.post(prefix + "/inferir", json={"features": ROW}).status_code == 200
        assert client.get(prefix + "/v2/models/digits").status_code == 200
        assert "/digits/openapi.json" in client.get(prefix + "/docs").text
        assert client.get(prefix + "/openapi.json").json()["servers"] == [{"url": "/digits"}]
        client.get(prefix + "/v2")
        assert 'route="/v2",' in client.get(prefix + "/metrics").text
    monkeypatch.setenv("ROOT_PATH", "digits")
    with pytest.raises(SystemExit, match="^ROOT_PATH is 'digits': a path is needed that begins with a slash"):
        read_settings()


@pytest.mark.parametrize("host", ["x86_64-conda-linux-gnu", "192.0.2.1", "a" * 64])
def test_a_host_that_is_not_of_this_machine_ends_the_program_with_a_sentence(monkeypatch, host):
    monkeypatch.setenv("HOST", host)
    with pytest.raises(SystemExit, match=f"^HOST is '{host}': this machine cannot listen there"):
        server.run("app:create_app", read_settings())


def test_a_folder_for_metrics_that_is_not_there_ends_the_program_with_a_sentence(tmp_path):
    folder = tmp_path / "not there"
    done = subprocess.run(
        [sys.executable, "app.py"],
        cwd=Path(app.__file__).parent,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"PROMETHEUS_MULTIPROC_DIR is {str(folder)!r}: there is no such folder\n",
    )
