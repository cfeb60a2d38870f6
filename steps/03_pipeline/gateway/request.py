"""The public door: rows of features as JSON, or a picture, bare or in a form; perhaps with a key against doubles."""

import re
from collections.abc import Iterable

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from chassis.errors import RequestError
from fast import FastRoute, content_type, read_body
from pipeline import Claim, Picture, Question
from responses import SENTENCES

PICTURES = ("image/png", "image/jpeg")
binary = {"schema": {"type": "string", "format": "binary"}}
image = {"type": "object", "properties": {"image": binary["schema"]}, "required": ["image"]}
key = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request that is sent again with its key gets the same id, and is stored once. Keys last a day.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
}
# FastAPI knows of the JSON; this is for the manual
MANUAL = {
    "parameters": [key],
    "requestBody": {"content": {**dict.fromkeys(PICTURES, binary), "multipart/form-data": {"schema": image}}},
}


class DoorRoute(FastRoute):
    """A fast route that takes pictures beside JSON. Its endpoint gets a Question."""

    content_types, wanted = ("application/json", "multipart/form-data", *PICTURES), SENTENCES[415]

    async def read(self, scope, receive) -> Question:
        own_key, kind = read_key(scope["headers"]), content_type(scope["headers"])
        if kind not in self.content_types:
            raise RequestError(415, self.wanted)
        body = await read_body(receive, self.max_body_size)
        if kind == "application/json":
            asked = self.parse(body)
        else:
            asked = Picture(body, kind) if kind in PICTURES else await read_form(Headers(scope=scope), body)
            body, kind = asked.content, asked.type  # the same form has another boundary when it is sent again
        return Question(asked, own_key and Claim.make(own_key, kind, body))


def read_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the Idempotency-Key, if there is one. RequestError with 422 if there are several, or if it is unfit."""
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if len(keys) > 1 or not all(re.fullmatch(rb"[!-~]{1,128}", key) for key in keys):
        raise RequestError(422, "send one Idempotency-Key, of 1 to 128 visible ASCII characters")
    return keys[0] if keys else None


async def read_form(headers: Headers, body: bytes) -> Picture:
    """Return the file `image` of a form. RequestError with 400 if it is no form, with 422 if it has no such file."""

    async def stream():
        yield body

    try:
        form = await MultiPartParser(headers, stream(), max_files=10, max_fields=10).parse()
    except (MultiPartException, ValueError) as error:
        raise RequestError(400, "the form cannot be read: send one with a file `image`") from error
    try:
        file = form.get("image")
        if not isinstance(file, UploadFile):
            raise RequestError(422, "the form has no file `image`: send the picture under that name")
        # Clients often do not say what a file is; preprocess looks for itself.
        kind = file.content_type if file.content_type in PICTURES else "application/octet-stream"
        return Picture(await file.read(), kind)
    finally:
        await form.close()
