"""What POST /inferir takes and gives, as types: they check requests and make the manual at /docs.

The model's part of it comes from contract.py.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Annotated, Any

from pydantic import BaseModel, Field, WithJsonSchema

from chassis.errors import NOT_JSON, TOO_MANY_DIGITS, WRONG_TYPE, RequestError, documented
from contract import CLASSES, EXAMPLE, FEATURES, HIGH, LOW

FEATURE_NAMES = [f"feature_{place}" for place in range(FEATURES)] if isinstance(FEATURES, int) else FEATURES
N_FEATURES = len(FEATURE_NAMES)
MAX_ROWS = 1024
LARGEST = 3.4028234663852886e38  # the model gets float32; a larger number would be infinite there


def describe_range(low: float | None, high: float | None) -> str:
    """Say in words which numbers are between two bounds, of which each may be None."""
    if low is None and high is None:
        return "a number"
    if high is None:
        return f"a number of at least {low:g}"
    if low is None:
        return f"a number of at most {high:g}"
    return f"a number from {low:g} to {high:g}"


NUMBER = describe_range(LOW, HIGH)  # such as "a number from 0 to 16"
ROW = f"a list of {N_FEATURES} numbers"

Feature = Annotated[
    float,
    Field(
        strict=True,
        allow_inf_nan=False,
        ge=-LARGEST if LOW is None else LOW,
        le=LARGEST if HIGH is None else HIGH,
    ),
]
# They fail fast: to list every error of a body that is full of them would take seconds.
Row = Annotated[list[Feature], Field(min_length=N_FEATURES, max_length=N_FEATURES, fail_fast=True)]
Batch = Annotated[list[Row], Field(min_length=1, max_length=MAX_ROWS, fail_fast=True)]

KINDS = {int: "integer", float: "number", str: "string"}  # as OpenAPI calls them
KIND = float if CLASSES is None else type(CLASSES[0])  # of a prediction
Prediction = Annotated[int | float | str, WithJsonSchema({"type": KINDS[KIND]})]
EXAMPLE_PREDICTION = 0.5 if CLASSES is None else CLASSES[-1]

EXAMPLES: dict[str, Any] = {
    "row": {"summary": "One row", "value": {"features": EXAMPLE}},
    "batch": {"summary": "A batch of two rows", "value": {"features": [EXAMPLE, EXAMPLE]}},
}


class InferirRequest(BaseModel):
    """One row of features, or a batch of rows."""

    features: Annotated[Row | Batch, Field(union_mode="left_to_right")] = Field(
        description=f"one row, which is {ROW}, each {NUMBER}; or a list of 1 to {MAX_ROWS:,} rows"
    )


class ModelInfo(BaseModel):
    version: str = Field(description="the head of the SHA-256 of the model's file", examples=["b5e7a46e61b8"])
    format: str = Field(examples=["pickle"])


class InferirResponse(BaseModel):
    prediction: list[Prediction] = Field(description="one for each row", examples=[[EXAMPLE_PREDICTION]])
    probabilities: list[list[float]] | None = Field(
        None,
        description="for each row, the probability of each class; absent if the model gives none",
    )
    model: ModelInfo


SENTENCES: dict[int | str, str] = {  # examples of what an error says
    400: NOT_JSON,
    413: f"a batch has at most {MAX_ROWS:,} rows: send several batches",
    415: WRONG_TYPE,
    422: f"features must be {ROW}",
    500: "the model answered with a number that is not finite: it cannot be used on these features",
    503: "model.pkl cannot be read (No such file or directory): run `python train.py`, then restart",
    "4XX": f"inputs[0].data has {N_FEATURES + 1} numbers, which is not (1, {N_FEATURES})",
}
error_responses = partial(documented, SENTENCES)


def explain(errors: Sequence[Mapping[str, Any]]) -> RequestError:
    """Make one sentence of what Pydantic found in an InferirRequest: which number is wrong, and what it should be."""
    # `features` is neither a row nor a batch. If a list stands where a row has its first number, a batch was meant.
    as_row = errors[0]
    is_batch = as_row["type"] == "float_type" and as_row["loc"][-1] == 0 and isinstance(as_row["input"], list)
    error = errors[1] if is_batch else as_row
    kind, place = error["type"], [*error["loc"]]
    if kind == "json_invalid":  # Pydantic's own reader says "out of range" of a number of thousands of digits
        return RequestError(422, TOO_MANY_DIGITS) if "out of range" in error["msg"] else RequestError(400, NOT_JSON)
    if place[:1] == ["body"]:  # where FastAPI found it
        place = place[1:]
    if len(place) < 2:
        return RequestError(422, 'the body must be a JSON object with a key "features"')
    if is_batch and kind == "too_long" and len(place) == 2:
        return RequestError(413, SENTENCES[413])
    name = "features" + "".join(f"[{index}]" for index in place[2:])
    if kind in ("too_short", "too_long", "list_type"):
        return RequestError(422, f"{name} must be {ROW}")
    pieces = islice(json.JSONEncoder(default=str).iterencode(error["input"]), 40)  # it may be a megabyte
    wanted, found = NUMBER, "".join(pieces)[:40]
    if (kind.startswith("greater") and LOW is None) or (kind.startswith("less") and HIGH is None):
        wanted = "a number that float32 can hold"
    return RequestError(422, f"{name} must be {wanted}, not {found}")
