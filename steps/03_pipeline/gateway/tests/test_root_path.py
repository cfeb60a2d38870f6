"""A proxy in front serves the gateway under a path of its own. Some cut the path off, others leave it."""

import pytest
from starlette.testclient import TestClient

import app
from settings import Settings, read_settings

PATHS = ["/", "/static/page.js", "/docs", "/openapi.json", "/livez", "/services"]


@pytest.mark.parametrize("root_path", ["/digits", "/user/x/proxy/8000/"])
@pytest.mark.parametrize("is_cut_off", [True, False])
def test_every_path_is_served_under_the_root_path(root_path, is_cut_off):
    with TestClient(app.create_app(Settings(root_path=root_path))) as client:
        prefix = "" if is_cut_off else root_path.rstrip("/")
        for path in PATHS:
            assert client.get(prefix + path).status_code == 200, path
        assert client.get(prefix + "/openapi.json").json()["servers"] == [{"url": root_path.rstrip("/")}]
        assert f'"{root_path.rstrip("/")}/openapi.json"' in client.get(prefix + "/docs").text.replace("'", '"')


@pytest.mark.parametrize("is_cut_off", [True, False])
def test_a_key_locks_the_same_paths_under_a_root_path(key_file, is_cut_off):
    settings = Settings(root_path="/digits", api_key_file=key_file)
    with TestClient(app.create_app(settings)) as client:
        prefix = "" if is_cut_off else "/digits"
        statuses = [client.get(prefix + path).status_code for path in PATHS]
    assert statuses == [200] * 5 + [401]


def test_a_root_path_without_a_slash_ends_the_program_with_a_sentence(monkeypatch):
    monkeypatch.setenv("ROOT_PATH", "digits")
    with pytest.raises(SystemExit, match="^ROOT_PATH is 'digits': a path is needed that begins with a slash"):
        read_settings.__wrapped__()
