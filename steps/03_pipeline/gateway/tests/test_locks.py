"""Every lock that FastAPI knows guards /inferir as it guards any other route, with the fast path and without."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

import app as gateway_app

ROW = {"features": [0.5] * 64}
RIGHT = {"X-User": "ada"}


async def require_user(x_user: Annotated[str | None, Header()] = None) -> str:
    if x_user != "ada":
        raise HTTPException(401, "who are you?")
    return x_user


class RefuseStrangers(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Callable) -> Response:
        return await call_next(request) if request.headers.get("X-User") == "ada" else Response(status_code=401)


class LockedRoute(FastAPI):
    """An application whose /inferir is declared with one more thing."""

    lock = ""

    def post(self, path: str, **options: Any) -> Callable:
        if self.lock == "parameter":

            def decorate(endpoint: Callable) -> Callable:
                async def inferir(request: Request, user: Annotated[str, Depends(require_user)]) -> Response:
                    return await endpoint(request)

                return super(LockedRoute, self).post(path, **options)(inferir)

            return decorate
        if self.lock == "route":
            return super().post(path, dependencies=[Depends(require_user)], **options)

        def include(endpoint: Callable) -> Callable:
            router = APIRouter(dependencies=[Depends(require_user)])
            router.post(path, **options)(endpoint)
            self.include_router(router)
            return endpoint

        return include


def make_class(lock: str) -> Callable[..., FastAPI]:
    if lock in ("parameter", "route", "router"):
        return type("Locked", (LockedRoute,), {"lock": lock})
    if lock == "application":
        return lambda **options: FastAPI(dependencies=[Depends(require_user)], **options)
    return lambda **options: FastAPI(middleware=[Middleware(RefuseStrangers)], **options)


def plain(app: ASGIApp) -> ASGIApp:
    return app


@pytest.fixture(params=["fast path", "plain"], autouse=True)
def path(request, monkeypatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(gateway_app, "FastPath", plain)
    return request.param


@pytest.mark.parametrize("lock", ["parameter", "route", "router", "application", "middleware"])
def test_a_lock_refuses_strangers_and_lets_others_in(open_gateway, inference, monkeypatch, lock):
    monkeypatch.setattr(gateway_app, "FastAPIOffline", make_class(lock))
    gateway = open_gateway()
    assert gateway.post("/inferir", json=ROW).status_code == 401
    assert inference.asked == []
    reply = gateway.post("/inferir", json=ROW, headers=RIGHT)
    assert (reply.status_code, reply.json()["prediction"]) == (200, [3])


def test_cors_answers_browsers_of_other_origins(open_gateway, monkeypatch):
    cors = Middleware(CORSMiddleware, allow_origins=["https://shop.example"], allow_methods=["POST"])
    monkeypatch.setattr(gateway_app, "FastAPIOffline", lambda **options: FastAPI(middleware=[cors], **options))
    gateway, origin = open_gateway(), {"Origin": "https://shop.example"}
    asked = gateway.options("/inferir", headers={**origin, "Access-Control-Request-Method": "POST"})
    reply = gateway.post("/inferir", json=ROW, headers=origin)
    for answer in (asked, reply):
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, origin["Origin"])


def test_an_exception_handler_of_ones_own_answers(open_gateway, monkeypatch):
    handlers = {gateway_app.RequestError: lambda request, error: Response("mine", 418)}
    monkeypatch.setattr(gateway_app, "HANDLERS", {**gateway_app.HANDLERS, **handlers})
    reply = open_gateway().post("/inferir", json={"features": []})
    assert (reply.status_code, reply.text) == (418, "mine")


def test_without_a_lock_all_answers_are_the_same(open_gateway):
    gateway = open_gateway()
    assert gateway.post("/inferir", json=ROW).json()["prediction"] == [3]
    assert gateway.post("/inferir", content=b"x" * 1_000_001, headers={"Content-Type": "image/png"}).status_code == 413
    assert gateway.post("/inferir", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert gateway.get("/inferir").status_code == 405
