"""The README's API key, put into app.py as the README says."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

import app
from settings import Settings

README = Path(app.__file__).with_name("README.md").read_text()
KEY = {"X-API-Key": "secret"}


@pytest.fixture(scope="module")
def client(model_dir):
    section = README.partition("## Ask for a key")[2].partition("\n## ")[0]
    above, argument = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    source = Path(app.__file__).read_text()
    source = source.replace("\ndef create_app", f"\n{above}\n\ndef create_app", 1)
    source = source.replace("FastAPIOffline(\n", f"FastAPIOffline(\n{argument}", 1)
    locked = ModuleType("locked")
    exec(compile(source, "app.py", "exec"), locked.__dict__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("API_KEY", KEY["X-API-Key"])
        with TestClient(locked.create_app(Settings(model_dir=model_dir))) as client:
            yield client


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/inferir"), ("POST", "/v2/models/digits/infer"), ("GET", "/livez"), ("GET", "/v2")],
)
def test_every_route_asks_for_the_key(client, method, path):
    for headers in ({}, {"X-API-Key": "wrong"}):
        reply = client.request(method, path, json={}, headers=headers)
        assert reply.status_code == 401
        assert reply.json()["error"].startswith("send your key in the header X-API-Key")


def test_without_a_key_of_its_own_nobody_gets_in(client, monkeypatch):
    for unset in (lambda: monkeypatch.setenv("API_KEY", ""), lambda: monkeypatch.delenv("API_KEY")):
        unset()
        assert client.post("/inferir", json={}).status_code == 401


def test_with_the_key_a_request_is_answered(client):
    sample = Path(app.__file__).with_name("sample_request.json").read_bytes()
    reply = client.post("/inferir", content=sample, headers=KEY | {"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["prediction"]) == (200, [3])
