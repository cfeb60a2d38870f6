"""What the gateway answers and what the other services answer it, as types."""

from datetime import datetime
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from chassis.errors import documented
from schemas import FEATURES, InferirResponse, ModelInfo, Row

Timings = Annotated[dict[str, float], Field(examples=[{"preprocess": 2.1, "inference": 1.3}])]


Whole = Annotated[int | float, Field(ge=0, le=16)]  # a whole number stays one


class Extraction(BaseModel):
    """The answer of preprocess."""

    features: Annotated[list[Whole], Field(min_length=FEATURES, max_length=FEATURES)]
    version: str


class Stored(BaseModel):
    """The answer of storage to a call that records."""

    stored: int


class Claimed(BaseModel):
    """The answer of storage to a claim."""

    claimed: Literal[True]


class PipelineResponse(InferirResponse):
    """The answer of inference, and what the other services had to do with it."""

    features: Row | None = Field(None, description="what preprocess made of a picture")
    preprocess: str | None = Field(None, description="the version of preprocess that did", examples=["v2"])
    id: str = Field(description="the result's name in storage; those of a batch end with .0, .1 and so on")
    stored: bool | Literal["queued"] = Field(
        description='true: storage has the result on disk; "queued": the message broker has, until storage has; '
        "false: neither has confirmed it"
    )
    storage: str | None = Field(None, description="why it is not stored")
    timings_ms: Timings = Field(description="what each service took, as the gateway saw it; `total` with its own part")


class Result(BaseModel):
    """A prediction as storage keeps it."""

    id: str
    request_id: str
    time: datetime
    features: list[float]
    prediction: int
    probabilities: list[float]
    model: ModelInfo
    preprocess: str | None
    timings_ms: Timings


class Listing(BaseModel):
    results: list[Result] = Field(description="the newest first")
    next: str | None = Field(description="for `before`, to get older ones; null if there are none")


class Summary(BaseModel):
    total: int
    by_digit: dict[str, int]
    by_model_version: dict[str, int]


class Health(BaseModel):
    ready: bool
    url: str
    ms: float = Field(description="how long it took to say so")
    reason: str | None = Field(description="why it, or one of its replicas, is not ready")


SENTENCES = {
    400: "the body is not JSON",
    413: "the body is larger than 1,000,000 bytes",
    415: "send JSON (Content-Type: application/json) or a picture "
    "(image/png, image/jpeg, or a form with a file `image`)",
    422: "digit: input should be less than or equal to 9",
    503: "storage cannot be reached",
}
error_responses = partial(documented, SENTENCES)
