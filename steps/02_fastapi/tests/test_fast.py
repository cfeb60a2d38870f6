"""Whatever a user puts on a route by FastAPI's ordinary means works there, and FastPath steps aside."""

import logging
from typing import Annotated

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from starlette.testclient import TestClient

from chassis.errors import JSON
from fast import FastPath


class Number(BaseModel):
    number: int


async def double(body: Number) -> Response:
    return JSON({"double": 2 * body.number})


def refuse() -> None:
    raise HTTPException(401, "no key")


def build(wrapped: bool, add) -> TestClient:
    """An application with POST /double as `add` puts it on, with FastPath or without."""
    app = add()
    return TestClient(FastPath(app) if wrapped else app, raise_server_exceptions=False)


def plain() -> FastAPI:
    app = FastAPI()
    app.post("/double")(double)
    return app


def of_parameter() -> FastAPI:
    app = FastAPI()

    @app.post("/double")
    async def guarded(body: Number, user: Annotated[None, Depends(refuse)]) -> Response:
        return await double(body)

    return app


def of_route() -> FastAPI:
    app = FastAPI()
    app.post("/double", dependencies=[Depends(refuse)])(double)
    return app


def of_router() -> FastAPI:
    app, router = FastAPI(), APIRouter(dependencies=[Depends(refuse)])
    router.post("/double")(double)
    app.include_router(router)
    return app


def of_inclusion() -> FastAPI:
    app, router = FastAPI(), APIRouter()
    router.post("/double")(double)
    app.include_router(router, dependencies=[Depends(refuse)])
    return app


def of_application() -> FastAPI:
    app = FastAPI(dependencies=[Depends(refuse)])
    app.post("/double")(double)
    return app


def of_security() -> FastAPI:
    app = FastAPI()

    @app.post("/double")
    async def guarded(body: Number, key: Annotated[str, Security(APIKeyHeader(name="X-API-Key"))]) -> Response:
        return await double(body)

    return app


def of_middleware() -> FastAPI:
    app = plain()

    @app.middleware("http")
    async def refuse_all(request: Request, call_next):
        return Response("no key", 401)

    return app


def of_mount() -> FastAPI:
    async def refuse_all(scope, receive, send):
        await Response("no key", 401)(scope, receive, send)

    app = FastAPI()
    app.mount("/", refuse_all)
    app.post("/double")(double)
    return app


LOCKS = [
    of_parameter,
    of_route,
    of_router,
    of_inclusion,
    of_application,
    of_security,
    of_middleware,
    of_mount,
]


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("add", LOCKS)
def test_a_guarded_route_refuses(add, wrapped):
    with build(wrapped, add) as client:
        assert client.post("/double", json={"number": 7}).status_code == 401


@pytest.mark.parametrize("wrapped", [True, False])
def test_cors_is_answered(wrapped):
    def add():
        app = plain()
        app.add_middleware(CORSMiddleware, allow_origins=["https://example.org"])
        return app

    with build(wrapped, add) as client:
        reply = client.post("/double", json={"number": 7}, headers={"Origin": "https://example.org"})
    assert (reply.json(), reply.headers["Access-Control-Allow-Origin"]) == ({"double": 14}, "https://example.org")


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("kind", [ZeroDivisionError, HTTPException, 404, Exception])
def test_the_handlers_of_exceptions_are_the_applications(wrapped, kind):
    def add():
        app = FastAPI()

        @app.post("/fail")
        async def fail(body: Number) -> Response:
            raise ZeroDivisionError if kind in (ZeroDivisionError, Exception) else HTTPException(404)

        @app.exception_handler(kind)
        async def answer(request: Request, error: Exception) -> Response:
            return JSON({"mine": request.url.path}, 418)

        return app

    with build(wrapped, add) as client:
        reply = client.post("/fail", json={"number": 7})
    assert (reply.status_code, reply.json()) == (418, {"mine": "/fail"})


@pytest.mark.parametrize("wrapped", [True, False])
def test_what_is_no_number_goes_to_the_handler_of_invalid_requests(wrapped):
    def add():
        app = plain()

        @app.exception_handler(RequestValidationError)
        async def answer(request: Request, error: RequestValidationError) -> Response:
            return JSON({"places": [each["loc"] for each in error.errors()]}, 418)

        return app

    with build(wrapped, add) as client:
        assert client.post("/double", json={"number": "x"}).json() == {"places": [["body", "number"]]}
        assert client.post("/double", content=b"{", headers={"Content-Type": "application/json"}).status_code == 418
        assert (
            client.post("/double", content=b'{"number": 7}', headers={"Content-Type": "text/plain"}).status_code == 418
        )


def test_it_serves_a_simple_route_and_says_so_and_why_not_another(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    app = plain()
    app.post("/raw")(raw_body)
    app.post("/guarded", dependencies=[Depends(refuse)])(double)
    app.post("/query")(with_query)
    app.post("/header")(with_header)
    app.post("/embedded")(with_embedded)
    app.post("/untold")(untold)
    app.post("/text")(not_async)
    with TestClient(FastPath(app)) as client:
        monkeypatch.setattr(app.router, "routes", [])  # so that FastAPI answers 404
        assert client.post("/double", json={"number": 7}).json() == {"double": 14}
        assert client.post("/raw", content=b"abc").json() == {"length": 3}
        for path in ("/guarded", "/query", "/header", "/embedded", "/untold", "/text"):
            assert client.post(path, json={"number": 7}).status_code == 404
    assert "the fast path serves POST /double, POST /raw; it leaves to FastAPI: " in caplog.text
    assert "POST /guarded (it depends on refuse), POST /query (it has parameters)" in caplog.text


async def raw_body(request: Request) -> Response:
    return JSON({"length": len(await request.body())})


async def with_query(body: Number, times: int = 2) -> Response:
    return JSON({"times": times})


async def with_header(body: Number, accept: Annotated[str | None, Header()] = None) -> Response:
    return JSON({"accept": accept})


async def with_embedded(body: Annotated[Number, Body(embed=True)]) -> Response:
    return JSON({})


async def untold(body: Number):
    return {"double": 2 * body.number}


def not_async(body: Number) -> Response:
    return JSON({})
