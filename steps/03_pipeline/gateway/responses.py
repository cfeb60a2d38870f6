"""What the gateway answers, and what the other services answer to it, as types."""

from datetime import datetime
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict  # Pydantic needs this one up to Python 3.11

from chassis.errors import documented
from schemas import N_FEATURES, ROW, InferirResponse, Row

Label = int | float | str  # a prediction: a class, or a regressor's number
Timings = Annotated[dict[str, float], Field(examples=[{"preprocess": 2.1, "inference": 1.3}])]
Number = Annotated[int | float, Field(allow_inf_nan=False)]  # a whole number stays one


class Extraction(BaseModel):
    """The answer of preprocess."""

    features: Annotated[list[Number], Field(min_length=N_FEATURES, max_length=N_FEATURES)]
    version: str


class Recorded(BaseModel):
    """The answer of storage to a call that records."""

    stored: int
    all_new: bool = False  # no result with one of these ids was stored before


class Model(TypedDict):
    version: str
    format: str


class Result(TypedDict):
    """A prediction as storage keeps it."""

    id: str
    request_id: str
    time: datetime
    features: list[Number]
    prediction: Label
    probabilities: list[float] | None
    model: Model
    preprocess: str | None
    timings_ms: Timings


class Claimed(BaseModel):
    """The answer of storage to a claim."""

    claimed: Literal[True]
    results: list[Result] = []  # those that are stored for the request, if it claimed the key before


class PipelineResponse(InferirResponse):
    """The answer of inference, and what the other services did for it."""

    features: Row | None = Field(None, description="what preprocess made of a picture")
    preprocess: str | None = Field(None, description="the version of preprocess that made them", examples=["v2"])
    id: str = Field(description="the result's name in storage; those of a batch end with .0, .1 and so on")
    stored: bool | Literal["queued"] = Field(
        description='true: storage has the result on disk; "queued": the message broker keeps it until storage has '
        "it; false: neither has confirmed it"
    )
    storage: str | None = Field(None, description="why it is not stored")
    timings_ms: Timings = Field(
        description="how long each service took, as the gateway saw it; `total` includes the gateway's own work"
    )


class Listing(BaseModel):
    results: list[Result] = Field(description="the newest first")
    next: str | None = Field(description="send it as `before` to get older ones; null if there are none")


class Summary(BaseModel):
    total: int
    by_prediction: dict[str, int]
    by_model_version: dict[str, int]


class Health(BaseModel):
    ready: bool
    url: str
    ms: float = Field(description="how long it took to find out")
    reason: str | None = Field(description="why it, or one of its replicas, is not ready")


SENTENCES: dict[int | str, str] = {
    400: "the body is not JSON",
    413: "the body is larger than 1,000,000 bytes",
    415: "send JSON (Content-Type: application/json) or a picture "
    "(image/png, image/jpeg, or a form with a file `image`)",
    422: f"features must be {ROW}",
    503: "storage cannot be reached",
}
error_responses = partial(documented, SENTENCES)
list_error_responses = partial(documented, {**SENTENCES, 422: "query.limit: input should be less than or equal to 100"})
