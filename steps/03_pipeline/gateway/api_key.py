"""The key that the gateway asks for, if it was given one. Who has it may do everything."""

import hmac
import re
from pathlib import Path

from fastapi import FastAPI

from chassis.errors import error_response

# What probes, browsers and readers of the manual need before there is a key; none of it shows results or costs much.
OPEN = {"/", "/docs", "/docs/oauth2-redirect", "/livez", "/openapi.json", "/readyz"}
OPEN_FOLDERS = ("/static/", "/static-offline-docs/")  # the files of the page and of /docs
MISSING = "a key is needed: send the header Authorization: Bearer KEY"
WRONG = "this is not the key: send one header Authorization: Bearer KEY, with the key that this service was given"
CHALLENGE = {"WWW-Authenticate": "Bearer"}


def read_api_key(path: str | Path) -> bytes:
    """Read the key from its file. ValueError, which does not tell the key, if it cannot be read or is none."""
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ValueError(f"the file with the key cannot be read ({error.strerror})") from None
    if not re.fullmatch(rb"[!-~]{16,}", key):
        found = "the file is empty" if not key else "what the file has is none"
        raise ValueError(f"a key is 16 or more visible ASCII characters without a space; {found}")
    return key


def is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)


class KeyRequired:
    """ASGI middleware: what is not open needs the key, as RFC 6750 has it. What lacks it is refused unread."""

    def __init__(self, app, key: bytes):
        self.app, self.key = app, key

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http" and not is_open(scope["path"]) and (sentence := self.refusal(scope["headers"])):
            await error_response(401, sentence, CHALLENGE)(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def refusal(self, headers: list[tuple[bytes, bytes]]) -> str:
        """Tell why a request may not pass; "" if it may."""
        sent = [value for name, value in headers if name == b"authorization"]
        if not sent:
            return MISSING
        scheme, _, key = sent[0].partition(b" ")
        # In a time that does not depend on how much of the key is right. Of several headers, who knows which counts?
        fits = hmac.compare_digest(key.strip(b" "), self.key) and scheme.lower() == b"bearer" and len(sent) == 1
        return "" if fits else WRONG


def add_key_to_openapi(app: FastAPI) -> None:
    """Put the key into the manual of a complete application: /docs then has a button to enter it."""
    manual = app.openapi()  # which FastAPI keeps
    manual["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    refused = {"schema": {"$ref": "#/components/schemas/Error"}, "example": {"error": MISSING}}
    reply = {"description": "Unauthorized", "content": {"application/json": refused}}
    reply["headers"] = {name: {"schema": {"type": "string"}} for name in CHALLENGE}
    for path, operations in manual["paths"].items():
        for operation in operations.values() if not is_open(path) else ():
            operation["security"] = [{"key": []}]
            operation["responses"]["401"] = reply
