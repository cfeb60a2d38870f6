"""What POST /inferir takes and gives, as types: they check requests and make the manual at /docs."""

import json
from functools import partial
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from chassis.errors import RequestError, documented

FEATURES = 64  # 8x8 pixels, row-major
MAX_ROWS = 1024

Ink = Annotated[float, Field(strict=True, ge=0, le=16)]
Row = Annotated[list[Ink], Field(min_length=FEATURES, max_length=FEATURES, fail_fast=True)]
Batch = Annotated[list[Row], Field(min_length=1, max_length=MAX_ROWS, fail_fast=True)]

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
EXAMPLES = {
    "row": {"summary": "One row: a 7", "value": {"features": SEVEN}},
    "batch": {"summary": "A batch of two rows", "value": {"features": [SEVEN, SEVEN]}},
}


class InferirRequest(BaseModel):
    """One row of features, or a batch of up to 1,024."""

    features: Annotated[Row | Batch, Field(union_mode="left_to_right")] = Field(
        description="8x8 pixels, row by row, each a number from 0 (no ink) to 16; or a list of such rows"
    )

    @classmethod
    def parse(cls, body: bytes) -> "InferirRequest":
        """Read the body of a request. RequestError with 400, 413 or 422 if it is no such thing."""
        try:
            return cls.model_validate_json(body)  # faster than json.loads, and the numbers are checked on the way
        except ValidationError as error:
            raise explain(error.errors(include_url=False)) from error


class ModelInfo(BaseModel):
    version: str = Field(description="the head of the SHA-256 of the model's file", examples=["b5e7a46e61b8"])
    format: str = Field(examples=["pickle"])


class InferirResponse(BaseModel):
    prediction: list[int] = Field(description="a digit for each row", examples=[[7]])
    probabilities: list[list[float]] = Field(
        description="for each row, the probability of each digit from 0 to 9",
        examples=[[[0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.99, 0.0, 0.0]]],
    )
    model: ModelInfo


SENTENCES = {  # what explain() says, or one of the kind
    400: "the body is not JSON",
    413: f"a batch has at most {MAX_ROWS:,} rows: send several batches",
    415: "send JSON, with the header Content-Type: application/json",
    422: "features[63] must be a number from 0 to 16, not 17",
    503: "model.pkl cannot be read (No such file or directory): run `python train.py`, then restart",
    "4XX": "inputs[0].data has 63 numbers, which is not (1, 64)",
}
error_responses = partial(documented, SENTENCES)


def explain(found: list[dict]) -> RequestError:
    """Make one sentence of what Pydantic has found: which number, and what it should be."""
    # `features` is neither of the two forms. Where a row has its first number, a batch has a list.
    as_row = found[0]
    is_batch = as_row["type"] == "float_type" and as_row["loc"][-1] == 0 and isinstance(as_row["input"], list)
    error = found[1] if is_batch else as_row
    kind, place = error["type"], error["loc"]
    if kind == "json_invalid" and "out of range" in error["msg"]:  # a whole number of thousands of digits
        return RequestError(422, "a number in the body has too many digits")
    if kind == "json_invalid":
        return RequestError(400, SENTENCES[400])
    if len(place) < 2:
        return RequestError(422, 'the body must be a JSON object with a key "features"')
    if is_batch and kind == "too_long" and len(place) == 2:
        return RequestError(413, SENTENCES[413])
    name = "features" + "".join(f"[{index}]" for index in place[2:])
    if kind in ("too_short", "too_long", "list_type"):
        return RequestError(422, f"{name} must be a list of {FEATURES} numbers")
    return RequestError(
        422, f"{name} must be a number from 0 to 16, not {json.dumps(error['input'], default=str)[:40]}"
    )
