"""Limit what a request may send and what it may cost: its body, and work for a client that has gone."""

import asyncio
from collections.abc import Iterable

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.errors import CLIENT_GONE, NOT_UTF8, RequestError

PATIENCE = 0.1  # seconds, until we begin to listen whether the client is still there

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
        is_json: bool | None = None  # until the first bytes come

        async def receive_limited() -> Message:
            nonlocal size, head, is_json
            message = await receive()
            if body := message.get("body"):
                if is_json is None:
                    is_json = check_headers(scope["headers"])
                if is_json and len(head) < 4:
                    head += body[:4]
                    if b"\0" in head or head.startswith(BYTE_ORDER_MARKS):
                        raise RequestError(400, NOT_UTF8)
                size += len(body)
                if size > self.limit:
                    raise RequestError(413, f"the body is larger than {self.limit:,} bytes")
            return message

        await self.app(scope, receive_limited if scope["type"] == "http" else receive, send)


def check_headers(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a body is JSON or of no type. Raises RequestError (415) if it has a Content-Encoding."""
    is_json = True
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise RequestError(415, "send the body as it is, without a Content-Encoding", Accept_Encoding="identity")
        if name == b"content-type":
            is_json = b"json" in value.lower()
    return is_json


class stop_if_gone:
    """Cancel what a `with` block awaits when the client goes away, and raise RequestError (499).

    Read the body first. To listen takes a task, so it begins only when the client has waited for a while.
    """

    def __init__(self, request: Request):
        self._request = request
        self._listener: asyncio.Task[None] | None = None
        self._is_gone = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._timer = task, task.get_loop().call_later(PATIENCE, self._begin)

    def _begin(self) -> None:
        self._listener = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self._is_gone = self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._timer.cancel()
        if self._listener:
            self._listener.cancel()
        # uncancel() counts: the task may have been cancelled for another reason, too.
        if kind is asyncio.CancelledError and self._is_gone and not self._task.uncancel():
            raise RequestError(CLIENT_GONE, "the client went away before it had its answer") from None
