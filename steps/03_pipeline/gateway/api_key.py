"""The key that the gateway asks for, if it was given one. With the key, a client may do everything."""

import hmac
import re
from pathlib import Path

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.errors import error_response

# These paths need no key: probes and browsers ask for them before they have one. They show no results and cost little.
OPEN = {"/", "/docs", "/docs/oauth2-redirect", "/livez", "/openapi.json", "/readyz"}
OPEN_FOLDERS = ("/static/", "/static-offline-docs/")  # the files of the page and of /docs
MISSING = "a key is needed: send the header Authorization: Bearer KEY"
WRONG = "this is not the key: send one header Authorization: Bearer KEY, with the key that this service was given"
CHALLENGE = {"WWW-Authenticate": "Bearer"}


def read_api_key(path: str | Path) -> bytes:
    """Read the key from its file. ValueError, which does not show the key, if there is no file or no valid key."""
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ValueError(f"the file with the key cannot be read ({error.strerror})") from None
    if not re.fullmatch(rb"[!-~]{16,}", key):
        found = "the file has something else" if key else "the file is empty"
        raise ValueError(f"a key is 16 or more visible ASCII characters without a space; {found}")
    return key


def is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)


class KeyRequired:
    """ASGI middleware: every path that is not open needs the key, sent as RFC 6750 says.

    A request without it is refused before its body is read.
    """

    def __init__(self, app: ASGIApp, key: bytes):
        self.app, self.key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            if not is_open(path) and (sentence := self.refusal(scope["headers"])):
                return await error_response(401, sentence, CHALLENGE)(scope, receive, send)
        await self.app(scope, receive, send)

    def refusal(self, headers: list[tuple[bytes, bytes]]) -> str:
        """Return why a request may not pass; "" if it may."""
        sent = [value for name, value in headers if name == b"authorization"]
        if not sent:
            return MISSING
        scheme, _, key = sent[0].partition(b" ")
        # The time must not depend on how much of the key is right. Several headers are refused.
        is_right = hmac.compare_digest(key.strip(b" "), self.key) and scheme.lower() == b"bearer" and len(sent) == 1
        return "" if is_right else WRONG


def add_key_to_openapi(app: FastAPI) -> None:
    """Describe the key in the OpenAPI of a complete application: /docs then has a button to enter it."""
    document = app.openapi()  # FastAPI keeps it
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    refused = {"schema": {"$ref": "#/components/schemas/Error"}, "example": {"error": MISSING}}
    response: dict = {"description": "Unauthorized", "content": {"application/json": refused}}
    response["headers"] = {name: {"schema": {"type": "string"}} for name in CHALLENGE}
    for path, operations in document["paths"].items():
        if is_open(path):
            continue
        for operation in operations.values():
            operation["security"] = [{"key": []}]
            operation["responses"]["401"] = response
