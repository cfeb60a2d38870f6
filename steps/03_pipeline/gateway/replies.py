"""What the gateway answers and what the other services answer it, as types."""

from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field

from schemas import InferirReply, ModelInfo, Row

Timings = Annotated[dict[str, float], Field(examples=[{"preprocess": 2.1, "inference": 1.3}])]


class Extraction(BaseModel):
    """The answer of preprocess."""

    features: Row
    version: str


class Stored(BaseModel):
    """The answer of storage to a call that records."""

    stored: int


class PipelineReply(InferirReply):
    """The answer of inference, and what the other services had to do with it."""

    features: Row | None = Field(None, description="what preprocess made of a picture")
    preprocess: str | None = Field(None, description="the version of preprocess that did", examples=["v2"])
    id: str = Field(description="the result's name in storage; those of a batch end with .0, .1 and so on")
    stored: bool = Field(description="whether storage has confirmed the result")
    storage: str | None = Field(None, description="why it has not")
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
    reason: str | None = Field(description="why it is not ready")
