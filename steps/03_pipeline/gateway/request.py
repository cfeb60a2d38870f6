"""What POST /inferir takes: rows of features as JSON, or a picture, alone or in a form; perhaps an Idempotency-Key."""

import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from fastapi import Request
from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser

import idempotency
from chassis.errors import RequestError
from idempotency import IdempotencyKey
from responses import SENTENCES
from schemas import EXAMPLES, InferirRequest, explain

PICTURES = ("image/png", "image/jpeg")
OTHER_NAMES = {"image/jpg": "image/jpeg"}  # not registered, but many clients send it
# A file's name as RFC 8187 writes it, which the parser of forms does not know
EXTENDED_NAME = re.compile(
    rb"(\r\nContent-Disposition:[^\r\n]*;\s*)filename\*=[\w-]*'\w*'([^;\s\"]*)(?=\s*\r\n)", re.IGNORECASE
)
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
FORM, JSON = "multipart/form-data", "application/json"

BINARY = {"schema": {"type": "string", "format": "binary"}}
FORM_WITH_IMAGE = {"schema": {"type": "object", "properties": {"image": BINARY["schema"]}, "required": ["image"]}}
# The route reads its body itself, since FastAPI's parameters take one content type. This describes it at /docs.
MANUAL: dict[str, Any] = {
    "parameters": [idempotency.HEADER],
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": InferirRequest.model_json_schema(), "examples": EXAMPLES},
            **dict.fromkeys(PICTURES, BINARY),
            FORM: FORM_WITH_IMAGE,
        },
    },
}


@dataclass
class Picture:
    """A PNG or JPEG as it came, with its media type. preprocess finds out whether it can be read."""

    content: bytes
    content_type: str


class InferenceRequest(NamedTuple):
    content: InferirRequest | Picture
    key: IdempotencyKey | None = None


async def read_request(request: Request) -> InferenceRequest:
    """Read the request of a client. RequestError (400, 413, 415 or 422) says what is wrong with it."""
    key = idempotency.read_key(request.scope["headers"])
    content_type = read_content_type(request.scope["headers"])
    content_type = OTHER_NAMES.get(content_type, content_type)
    if content_type not in (JSON, FORM, *PICTURES):
        raise RequestError(415, SENTENCES[415])
    body = await request.body()
    content: InferirRequest | Picture
    if content_type == JSON:
        content = read_json(body)
    else:
        content = Picture(body, content_type) if content_type in PICTURES else await read_form(request)
        # The same form has another boundary when it is sent again; the picture in it is the same.
        body, content_type = content.content, content.content_type
    return InferenceRequest(content, IdempotencyKey.make(key, content_type, body) if key else None)


def read_content_type(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the media type without its parameters. Starlette's `headers` would be made for this value alone."""
    for name, value in headers:
        if name == b"content-type" and len(value) < 1000:  # the parser of its options would take long
            return value.partition(b";")[0].strip().lower().decode("latin-1")
    return ""


def read_json(body: bytes) -> InferirRequest:
    try:
        return InferirRequest.model_validate_json(body)
    except ValidationError as error:
        raise explain(error.errors(include_url=False)) from error


async def read_form(request: Request) -> Picture:
    """Return the file `image` of a form. RequestError: 400 if it is not a whole form, 422 if it has no such file."""
    options = parse_options_header(request.headers["content-type"])[1]
    # Starlette would decode texts as the client says, and Python has codecs that take minutes for a megabyte.
    if options.get(b"charset", b"utf-8").lower() not in CHARSETS:
        raise RequestError(400, "the form cannot be read: send it in UTF-8")
    body, boundary = await request.body(), options.get(b"boundary")
    if boundary and b"--" + boundary in body and b"--" + boundary + b"--" not in body:
        raise RequestError(400, "the form cannot be read: its end is missing")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield EXTENDED_NAME.sub(rb'\1filename="\2"', body)

    try:
        form = await MultiPartParser(request.headers, stream(), max_files=10, max_fields=10).parse()
    except (MultiPartException, ValueError, KeyError) as error:
        raise RequestError(400, "the form cannot be read: send one with a file `image`") from error
    try:
        file = form.get("image")
        if isinstance(file, str):
            raise RequestError(422, "the part `image` of the form has no file name: send it as a file")
        if file is None:
            raise RequestError(422, "the form has no file `image`: send the picture under that name")
        # Clients often do not say what a file is; preprocess looks for itself.
        content_type = file.content_type if file.content_type in PICTURES else None
        return Picture(await file.read(), content_type or "application/octet-stream")
    finally:
        await form.close()
