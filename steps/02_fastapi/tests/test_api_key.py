"""An API key by `APIKeyHeader`, another of FastAPI's ordinary means than the one in README.md."""

import secrets
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import APIKeyHeader
from starlette.testclient import TestClient

import app
from conftest import ROW, posted
from settings import Settings


def test_a_key_by_depends_guards_all_routes(path, model_dir, monkeypatch):
    key = APIKeyHeader(name="X-API-Key", auto_error=False)

    async def require_key(given: Annotated[str | None, Depends(key)]) -> None:
        if not secrets.compare_digest((given or "").encode(), b"a secret"):
            raise HTTPException(401, "send the header X-API-Key with your key")

    create = app.FastAPIOffline
    monkeypatch.setattr(app, "FastAPIOffline", lambda **options: create(**options, dependencies=[Depends(require_key)]))

    with TestClient(app.create_app(Settings(model_dir=model_dir))) as client:
        for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": "gleich\u00fc".encode()}):
            assert client.post("/inferir", json={"features": ROW}, headers=headers).status_code == 401
            assert client.get("/livez", headers=headers).status_code == 401
            reply = client.get("/v2/models/digits", headers=headers)
            assert reply.json() == {"error": "send the header X-API-Key with your key: GET /v2/models/digits"}
        assert posted(client, ROW, **{"X-API-Key": "a secret"}).json()["prediction"] == [3]
