"""A lock that is put on FastAPI by its ordinary means also holds for the routes that are answered faster."""

from functools import partial
from typing import Annotated

import pytest
from fastapi import Depends, Header, HTTPException
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

import app
import contract
from schemas import N_FEATURES
from settings import Settings

BODIES = {
    "/inferir": {"features": contract.EXAMPLE},
    f"/v2/models/{contract.NAME}/infer": {
        "inputs": [{"name": "features", "shape": [1, N_FEATURES], "datatype": "FP32", "data": contract.EXAMPLE}]
    },
}


def require_key(x_api_key: Annotated[str, Header()] = "") -> None:
    if x_api_key != "right":
        raise HTTPException(401, "send the API key in the header X-API-Key")


class Refuse:
    """ASGI middleware that answers every request with 403."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        await PlainTextResponse("closed", 403)(scope, receive, send)


@pytest.fixture
def client(request, model_dir, monkeypatch):
    """The service whose FastAPI got the arguments that the test names."""
    monkeypatch.setattr(app, "FastAPIOffline", partial(FastAPIOffline, **request.param))
    with TestClient(app.create_app(Settings(model_dir=model_dir, model_format="onnx"))) as client:
        yield client


@pytest.mark.parametrize("client", [{"dependencies": [Depends(require_key)]}], indirect=True, ids=["Depends"])
@pytest.mark.parametrize("path", BODIES)
def test_an_api_key_by_depends_is_required(client, path):
    for key in ("", "wrong"):
        reply = client.post(path, json=BODIES[path], headers={"X-API-Key": key})
        assert (reply.status_code, "send the API key" in reply.text) == (401, True)
    assert client.get("/livez").status_code == 401
    assert client.post(path, json=BODIES[path], headers={"X-API-Key": "right"}).status_code == 200


@pytest.mark.parametrize("client", [{"middleware": [Middleware(Refuse)]}], indirect=True, ids=["middleware"])
@pytest.mark.parametrize("path", BODIES)
def test_a_middleware_that_refuses_requests_is_asked(client, path):
    reply = client.post(path, json=BODIES[path])
    assert (reply.status_code, reply.text) == (403, "closed")


@pytest.mark.parametrize("client", [{}], indirect=True, ids=["no lock"])
@pytest.mark.parametrize("path", BODIES)
def test_without_a_lock_the_same_request_is_answered(client, path):
    assert client.post(path, json=BODIES[path]).status_code == 200
