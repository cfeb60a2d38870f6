"""Limit what a request may send and what it may cost: its body, and work for a client that has gone."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.errors import CLIENT_GONE, NOT_UTF8, RequestError

PATIENCE = 0.05  # seconds until we begin to listen whether the client is still there


BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")


class BodyLimit:
    """ASGI middleware: reading a body raises RequestError if the service does not take it.

    413: it has more than `limit` bytes. FastAPI's own `max_body_size` answers with plain text, which clients of this
    service do not expect. 415: it has a Content-Encoding, such as gzip. 400: it is JSON, but not in UTF-8. Python's
    json reads UTF-16 and a byte order mark, too; other parsers of JSON refuse them.
    """

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size, head = 0, b""
        is_json = True  # or has no type

        async def receive_limited() -> Message:
            nonlocal size, head, is_json
            message = await receive()
            if message["type"] == "http.request":
                body = message.get("body", b"")
                if not size:
                    is_json = check_headers(scope["headers"])
                if len(head) < 4:
                    head += body[:4]
                    if is_json and (b"\0" in head or head.startswith(BYTE_ORDER_MARKS)):
                        raise RequestError(400, NOT_UTF8)
                size += len(body)
                if size > self.limit:
                    raise RequestError(413, f"the body is larger than {self.limit:,} bytes")
            return message

        await self.app(scope, receive_limited if scope["type"] == "http" else receive, send)


def check_headers(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a body is JSON, or of no named type. Raises RequestError (415) if it has a Content-Encoding."""
    is_json = True
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise RequestError(415, "send the body as it is, without a Content-Encoding", Accept_Encoding="identity")
        if name == b"content-type":
            is_json = b"json" in value.lower()
    return is_json


@contextmanager
def stop_if_gone(request: Request) -> Iterator[None]:
    """Cancel what the block awaits when the client goes away, and raise RequestError (499).

    Read the body first. To listen takes a task, so it begins only when the client has waited for a while.
    """
    waiting, listening, gone = asyncio.current_task(), list[asyncio.Task[None]](), False
    assert waiting is not None

    async def listen() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = waiting.cancel()

    loop = asyncio.get_running_loop()
    timer = loop.call_later(PATIENCE, lambda: listening.append(loop.create_task(listen())))
    try:
        yield
    except asyncio.CancelledError:
        if not gone or waiting.uncancel():
            raise  # it was cancelled for another reason
        raise RequestError(CLIENT_GONE, "the client went away before it had its answer") from None
    finally:
        timer.cancel()
        for task in listening:
            task.cancel()
