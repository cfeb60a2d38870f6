"""The public door: rows of features as JSON, or a picture, bare or in a form."""

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from errors import Refused
from fast import FastRoute, content_type, read_body
from pipeline import Picture
from replies import SENTENCES
from schemas import InferirRequest

PICTURES = ("image/png", "image/jpeg")
binary = {"schema": {"type": "string", "format": "binary"}}
image = {"type": "object", "properties": {"image": binary["schema"]}, "required": ["image"]}
# FastAPI knows of the JSON; this is for the manual
BODIES = {"requestBody": {"content": {**dict.fromkeys(PICTURES, binary), "multipart/form-data": {"schema": image}}}}


class DoorRoute(FastRoute):
    """A fast route that takes pictures beside JSON."""

    content_types, wanted = ("application/json", "multipart/form-data", *PICTURES), SENTENCES[415]

    async def read(self, scope, receive) -> InferirRequest | Picture:
        kind = content_type(scope["headers"])
        if kind not in self.content_types[1:]:
            return await super().read(scope, receive)
        body = await read_body(receive, self.max_body_size)
        return Picture(body, kind) if kind in PICTURES else await read_form(Headers(scope=scope), body)


async def read_form(headers: Headers, body: bytes) -> Picture:
    """Return the file `image` of a form. Refused with 400 if it is no form, with 422 if it has no such file."""

    async def stream():
        yield body

    try:
        form = await MultiPartParser(headers, stream(), max_files=10, max_fields=10).parse()
    except (MultiPartException, ValueError) as error:
        raise Refused(400, "the form cannot be read: send one with a file `image`") from error
    try:
        file = form.get("image")
        if not isinstance(file, UploadFile):
            raise Refused(422, "the form has no file `image`: send the picture under that name")
        # Clients often do not say what a file is; preprocess looks for itself.
        kind = file.content_type if file.content_type in PICTURES else "application/octet-stream"
        return Picture(await file.read(), kind)
    finally:
        await form.close()
