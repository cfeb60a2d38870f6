"""Routes for many small requests: declared to FastAPI like any other, answered without most of it.

What FastAPI and Starlette do for every request (a stack of middleware, matching of paths, exit stacks, objects for
request and response) takes longer than all that this service does. On one core, a FastAPI route that only reads its
body and answers with a constant was measured at 8,000 requests a second; /inferir, which goes past it, at 12,000. A
route with a fixed path and one JSON body needs none of it.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import contextmanager

import orjson
from fastapi import FastAPI
from fastapi.routing import APIRoute

from chassis.errors import CLIENT_GONE, RequestError, answer_bug, answer_request_error

PATIENCE = 0.05  # seconds until we look whether the client still waits


class FastRoute(APIRoute):
    """A POST route of one JSON body, which costs a request little.

    FastAPI sees its types when the service starts, and shows them at /docs. When a request comes, the body's type reads
    it, by a class method `parse(bytes)` that raises RequestError; the endpoint answers with what orjson can write, NumPy
    arrays included; and `max_body_size` is the limit.
    """

    content_types = ("application/json",)  # those it takes; if there are none, it does not look
    wanted = "send JSON, with the header Content-Type: application/json"

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        asked = self.dependencies or self.dependant.path_params or self.dependant.query_params or self.status_code
        if asked or len(self.dependant.body_params) != 1:
            raise TypeError(f"{self.path}: a FastRoute takes one body and answers 200; use a plain route for the rest")
        self.parse = self.body_field.field_info.annotation.parse
        self.app = self.respond

    async def read(self, scope, receive):
        """Return what the endpoint takes. A route that takes more than JSON has its own."""
        if self.content_types and content_type(scope["headers"]) not in self.content_types:
            raise RequestError(415, self.wanted)
        return self.parse(await read_body(receive, self.max_body_size))

    async def respond(self, scope, receive, send) -> None:
        """Answer one request, as an ASGI application: https://asgi.readthedocs.io/en/latest/specs/www.html"""
        try:
            request = await self.read(scope, receive)
            with refused_if_gone(receive):
                answer = await self.endpoint(request)
            body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        except RequestError as refused:
            return await answer_request_error(None, refused)(scope, receive, send)
        except Exception as error:
            logging.exception("%s has failed", self.path)
            return await answer_bug(None, error)(scope, receive, send)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Shortcut:
    """ASGI middleware: give a request for the path of a FastRoute to that route, and any other to the application.

    Middleware that is added to the application does not see those requests. Wrap it around this one instead.
    """

    def __init__(self, app: FastAPI):
        self.app = app
        self.routes = {route.path: route for route in app.routes if isinstance(route, FastRoute)}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (route := self.routes.get(scope["path"])):
            scope["route"] = route
            await route.respond(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def content_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower().decode("latin-1")
    return ""


async def read_body(receive, limit: int) -> bytes:
    """Return the body of a request. RequestError with 413 as soon as it is over the limit, whatever length it claims."""
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(CLIENT_GONE, "the client went away while it sent its body")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > limit:
            raise RequestError(413, f"the body is larger than {limit:,} bytes")
        if not message.get("more_body"):
            return b"".join(chunks)


@contextmanager
def refused_if_gone(receive):
    """Cancel what the block awaits if the client goes away meanwhile, and raise RequestError.

    Listening takes a task, so it begins when the client has waited for a while.
    """
    waiting, listening, gone = asyncio.current_task(), [], False

    async def listen():
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = waiting.cancel()

    loop = asyncio.get_running_loop()
    timer = loop.call_later(PATIENCE, lambda: listening.append(loop.create_task(listen())))
    try:
        yield
    except asyncio.CancelledError:
        if not gone or waiting.uncancel():
            raise  # somebody else's wish
        raise RequestError(CLIENT_GONE, "the client went away before it had its answer") from None
    finally:
        timer.cancel()
        for task in listening:
            task.cancel()
