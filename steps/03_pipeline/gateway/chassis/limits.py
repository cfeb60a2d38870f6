"""Limit what one request may cost: the size of its body, and work for a client that has gone."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.errors import CLIENT_GONE, RequestError

PATIENCE = 0.05  # seconds until we begin to listen whether the client is still there


class BodyLimit:
    """ASGI middleware: whoever reads a body of more than `limit` bytes gets RequestError (413) instead.

    FastAPI's own `max_body_size` answers with plain text, which clients of this service do not expect.
    """

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            if message["type"] == "http.request":
                size += len(message.get("body", b""))
                if size > self.limit:
                    raise RequestError(413, f"the body is larger than {self.limit:,} bytes")
            return message

        await self.app(scope, receive_limited if scope["type"] == "http" else receive, send)


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
