"""What POST /features takes and gives, for the manual at /docs."""

from functools import partial
from typing import Any

from pydantic import BaseModel, Field

from chassis.errors import documented

CONTENT_TYPES = ("image/png", "image/jpeg", "application/octet-stream")
OTHER_NAMES = ("image/jpg",)  # for JPEG; it is not registered, but many clients send it
# fmt: off
SEVEN = [
    0, 0,  7,  8, 13, 16, 15, 1,
    0, 0,  7,  7,  4, 11, 12, 0,
    0, 0,  0,  0,  8, 13,  1, 0,
    0, 4,  8,  8, 15, 15,  6, 0,
    0, 2, 11, 15, 15,  4,  0, 0,
    0, 0,  0, 16,  5,  0,  0, 0,
    0, 0,  9, 15,  1,  0,  0, 0,
    0, 0, 13,  5,  0,  0,  0, 0,
]
# fmt: on


# The body is the file as it is. FastAPI does not read it, so the manual gets its description from here.
PICTURE: dict[str, Any] = {"schema": {"type": "string", "format": "binary", "description": "a PNG or JPEG file"}}
PICTURE_BODY = {"required": True, "content": dict.fromkeys(CONTENT_TYPES, PICTURE)}


class FeaturesResponse(BaseModel):
    features: list[int] = Field(
        description="8x8 pixels, row by row, each a whole number from 0 (no ink) to 16",
        min_length=64,
        max_length=64,
        examples=[SEVEN],
    )
    version: str = Field(description="how the features were made", examples=["v2"])


SENTENCES: dict[int | str, str] = {  # what the service says, or an example of it
    400: "the body is not a PNG or JPEG that can be read: is the file whole?",
    413: "the picture has 9,000 x 6,000 pixels, and at most 16,000,000 are allowed: send a smaller one",
    415: "send a PNG or JPEG, with the header Content-Type: image/png or image/jpeg",
    422: "the picture is blank: nothing on it stands out from the paper",
    503: "too many pictures are waiting: try again in a second",
}
error_responses = partial(documented, SENTENCES)
