"""What the routes take and return, as types. They check requests and describe them at /docs."""

from datetime import datetime
from functools import partial
from typing import Self

import orjson
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json

from chassis.errors import documented
from fields import MAX_NUMBERS, MAX_TEXT, Digest, Id, Number, Prediction, Text, Time, Timings
from sentences import KEY_TAKEN, MAX_RESULTS, SENTENCES, explain, not_json
from tables import Row

SHOWN_BYTES = 1000  # of a dead letter, in a list


class Model(BaseModel):
    version: Text = Field(min_length=1, examples=["b5e7a46e61b8"])
    format: Text = Field(min_length=1, examples=["pickle"])


class Result(BaseModel):
    """One prediction, and what led to it. It may come from any model."""

    id: Id = Field(description="unique; of several results with one id, the first is kept", examples=["7f3a.0"])
    request_id: Text = Field(description="X-Request-ID of the request that asked for it", examples=["7f3a"])
    time: Time = Field(description="when the gateway got that request: ISO 8601 with a zone")
    features: list[Number] = Field(min_length=1, max_length=MAX_NUMBERS, fail_fast=True)
    prediction: Prediction = Field(examples=[7])
    probabilities: list[Number] | None = Field(
        max_length=MAX_NUMBERS, fail_fast=True, description="one for each class; null if the model has none"
    )
    model: Model
    preprocess: Text | None = Field(description="its version; null if the client sent features", examples=["v2"])
    timings_ms: Timings = Field(examples=[{"preprocess": 2.1, "inference": 1.3}])

    def to_row(self) -> Row:
        """Return the columns of the table: `prediction` and `model` are two each."""
        row = self.__dict__.copy()
        model, prediction = row.pop("model"), row["prediction"]
        is_number = not isinstance(prediction, str)
        row |= {"prediction": str(prediction), "prediction_is_number": is_number}
        return {**row, "model_version": model.version, "model_format": model.format}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        prediction = orjson.loads(row["prediction"]) if row["prediction_is_number"] else row["prediction"]
        model = Model(version=row["model_version"], format=row["model_format"])
        return cls(**{**row, "prediction": prediction, "model": model})


class Body(BaseModel):
    """The JSON body of a request."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read it. Raises RequestError (400, 413 or 422) if it is not valid."""
        try:
            # Not model_validate_json: for each key that is missing, it would copy the whole object into its error.
            return cls.model_validate(from_json(body))
        except ValidationError as error:
            raise explain(error.errors(include_url=False)[0], next(iter(cls.model_fields))) from error
        except ValueError as error:  # it is not JSON
            raise not_json(str(error)) from error


class StoreRequest(Body):
    """1 to 1,024 results."""

    results: list[Result] = Field(min_length=1, max_length=MAX_RESULTS, fail_fast=True)


class StoreResponse(BaseModel):
    stored: int = Field(description="how many of the results are on disk now, from before or new", examples=[1])
    all_new: bool = Field(description="no result with one of these ids was stored before; false: perhaps one was")


class Page(BaseModel):
    """Which part of a list to return."""

    limit: int = Field(20, ge=1, le=100)
    before: Id | None = Field(None, description="`next` of the page before")


class ListRequest(Page):
    prediction: str | None = Field(
        None,
        max_length=MAX_TEXT,
        pattern=r"^[^\x00]*$",
        description="only results with this prediction, written as text",
        examples=["3"],
    )


class ListResponse(BaseModel):
    results: list[Result]
    next: str | None = Field(description="`before` of the next page, or null after the last", examples=["7f3a.0"])


class SummaryResponse(BaseModel):
    total: int = Field(examples=[3])
    by_prediction: dict[str, int] = Field(
        description="the 100 most frequent, numbers before text, in order", examples=[{"1": 1, "3": 2}]
    )
    by_model_version: dict[str, int] = Field(examples=[{"b5e7a46e61b8": 3}])


class ClaimRequest(Body):
    """An Idempotency-Key and the request that it came with, as SHA-256 digests."""

    key: Digest
    request: Digest
    id: Id | None = Field(None, description="of the request's result; a batch has `id`.0, `id`.1 and so on")


class ClaimResponse(BaseModel):
    claimed: bool = Field(description="the key belongs to this request for a day from when it was first claimed")
    results: list[Result] = Field(description="if the key was claimed before: what is stored under `id`")


class DeadLetter(BaseModel):
    """A part of a message that cannot be stored."""

    id: Id = Field(examples=["17-20260504T120000250000.0"])
    time: datetime = Field(description="when the broker got the message")
    subject: str = Field(examples=["results"])
    request_id: str = Field(description="X-Request-ID of the message; several are joined by commas")
    reason: str = Field(examples=["results[0].model is missing"])
    size: int = Field(description="of the body, in bytes; the table has all of them")
    body: str = Field(description=f"as text, its first {SHOWN_BYTES:,} bytes")

    @classmethod
    def from_row(cls, row: Row) -> Self:
        body = row["body"] or b""  # in SQLite, the start of an empty body is NULL
        return cls(**{**row, "body": body.decode(errors="replace")})


class DeadLettersResponse(BaseModel):
    dead_letters: list[DeadLetter]
    next: str | None = Field(description="`before` of the next page, or null after the last")


class ReadyResponse(BaseModel):
    status: str = "ready"


error_responses = partial(documented, SENTENCES)
claim_error_responses = partial(documented, {**SENTENCES, 422: KEY_TAKEN})
list_error_responses = partial(documented, {**SENTENCES, 422: "query.limit: input should be less than or equal to 100"})
