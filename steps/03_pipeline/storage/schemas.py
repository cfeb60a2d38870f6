"""What the routes take and give, as types: they check requests and make the manual at /docs."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, ValidationError

from chassis.errors import RequestError, documented

FEATURES, DIGITS = 64, 10
MAX_RESULTS, MAX_TIMINGS = 1024, 16  # in one request, in one result
SHOWN_BYTES = 1000  # of a dead letter, in a list


def iso(time):
    """Refuse what Pydantic would take for seconds since 1970, which have no zone."""
    if isinstance(time, datetime) or (isinstance(time, str) and time[4:5] == "-"):
        return time
    raise ValueError("Time should be ISO 8601 with a zone")


def in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:  # the first hours of the year 1, the last of 9999
        raise ValueError("Time should be in the years 1 to 9999 of UTC") from None


def whole(number):
    """Take 9.0 for 9, which it is in JSON. Pydantic would either refuse it, or take "9" and true as well."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def few(timings):
    """Refuse thousands of timings before Pydantic makes a list of all that is wrong with them."""
    if isinstance(timings, dict) and len(timings) > MAX_TIMINGS:
        raise ValueError(f"Timings should be at most {MAX_TIMINGS}")
    return timings


# PostgreSQL cannot store the character 0. A log shows none of the control characters as what they are.
Text = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Time = Annotated[AwareDatetime, BeforeValidator(iso), AfterValidator(in_utc)]
Digit = Annotated[int, Field(strict=True, ge=0, lt=DIGITS), BeforeValidator(whole)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Ink = Annotated[float, Field(strict=True, ge=0, le=16)]
Timings = Annotated[
    dict[Id, Number],
    # Pydantic's schema says how names are written, but not that there are no others.
    Field(max_length=MAX_TIMINGS, json_schema_extra={"additionalProperties": False}),
    BeforeValidator(few),
]


class Model(BaseModel):
    version: Text = Field(min_length=1, examples=["b5e7a46e61b8"])
    format: Text = Field(min_length=1, examples=["pickle"])


class Result(BaseModel):
    """One prediction, and what led to it."""

    id: Id = Field(description="unique; a result whose id is stored already is left as it is", examples=["7f3a.0"])
    request_id: Text = Field(description="X-Request-ID of the request that asked for it", examples=["7f3a"])
    time: Time = Field(description="when the gateway got that request: ISO 8601 with a zone")
    features: list[Ink] = Field(min_length=FEATURES, max_length=FEATURES, fail_fast=True)
    prediction: Digit = Field(examples=[7])
    probabilities: list[Number] = Field(min_length=DIGITS, max_length=DIGITS, fail_fast=True)
    model: Model
    preprocess: Text | None = Field(description="its version; null if the features were sent as such", examples=["v2"])
    timings_ms: Timings = Field(examples=[{"preprocess": 2.1, "inference": 1.3}])

    def to_row(self) -> dict:
        """Return the columns of the table: the same, but for `model`, which is two."""
        row = self.__dict__.copy()
        model = row.pop("model")
        return {**row, "model_version": model.version, "model_format": model.format}

    @classmethod
    def from_row(cls, row: dict) -> Self:
        return cls(**row, model=Model(version=row["model_version"], format=row["model_format"]))


class Body(BaseModel):
    """What comes as JSON."""

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read it. RequestError with 400, 413 or 422 if it is no such thing."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise explain(error.errors(include_url=False)[0], next(iter(cls.model_fields))) from error


class StoreRequest(Body):
    """1 to 1,024 results."""

    results: list[Result] = Field(min_length=1, max_length=MAX_RESULTS, fail_fast=True)


class StoreResponse(BaseModel):
    stored: int = Field(description="how many results are on disk now, those that were before included", examples=[1])


class Page(Body):
    """Which part of a list is asked for."""

    limit: int = Field(20, ge=1, le=100)
    before: Id | None = Field(None, description="`next` of the page before")


class ListRequest(Page):
    digit: int | None = Field(None, ge=0, lt=DIGITS)


class ListResponse(BaseModel):
    results: list[Result]
    next: str | None = Field(description="`before` of the next page, or null after the last", examples=["7f3a.0"])


class SummaryResponse(BaseModel):
    total: int = Field(examples=[3])
    by_digit: dict[str, int] = Field(examples=[{"0": 0, "1": 1, "2": 0, "3": 2}])
    by_model_version: dict[str, int] = Field(examples=[{"b5e7a46e61b8": 3}])


class ClaimRequest(Body):
    """An Idempotency-Key and the request that it came with, as SHA-256 digests."""

    key: Digest
    request: Digest


class ClaimResponse(BaseModel):
    claimed: bool = Field(description="the key is this request's for a day from when it was first claimed")


class DeadLetter(BaseModel):
    """What came through the broker and cannot be stored."""

    id: Id = Field(examples=["17-20260504T120000250000.0"])
    time: datetime = Field(description="when the broker got it")
    subject: str = Field(examples=["results"])
    request_id: str = Field(description="X-Request-ID of the message; several are joined by commas")
    reason: str = Field(examples=["results[0].features must have 64 numbers"])
    size: int = Field(description="of the body, in bytes; the table has all of them")
    body: str = Field(description=f"as text, its first {SHOWN_BYTES:,} bytes")

    @classmethod
    def from_row(cls, row: dict) -> Self:
        body = row["body"] or b""  # to SQLite, the start of an empty body is NULL
        return cls(**{**row, "body": body.decode(errors="replace")})


class DeadLettersResponse(BaseModel):
    dead_letters: list[DeadLetter]
    next: str | None = Field(description="`before` of the next page, or null after the last")


class ReadyResponse(BaseModel):
    status: str = "ready"


KEY_TAKEN = "this Idempotency-Key was used for another request"
SENTENCES = {
    400: "the body is not JSON",
    413: f"a request has at most {MAX_RESULTS:,} results: send several requests",
    415: "send JSON, with the header Content-Type: application/json",
    422: "results[3].features must have 64 numbers",
    503: "the database cannot be used (database or disk is full): try again later",
}
error_responses = partial(documented, SENTENCES)
claim_error_responses = partial(documented, {**SENTENCES, 422: KEY_TAKEN})


def explain(error: dict, key: str) -> RequestError:
    """Make a sentence of the first thing that Pydantic has found: which place, and what it should be.

    The body should have been an object with `key`.
    """
    kind, place, limits = error["type"], error["loc"], error.get("ctx", {})
    if kind == "json_invalid" and "out of range" in error["msg"]:  # a whole number of thousands of digits
        return RequestError(422, "a number in the body has too many digits")
    if kind == "json_invalid":
        return RequestError(400, SENTENCES[400])
    if kind == "too_long" and place == ("results",):
        return RequestError(413, SENTENCES[413])
    if not place:
        return RequestError(422, f'the body must be a JSON object with a key "{key}"')
    place = [part for part in place if part != "[key]"]  # the name of a timing, not the timing
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:80]
    if kind == "missing":
        return RequestError(422, f"{name} is missing")
    if kind in ("too_short", "too_long") and place[-1] in ("features", "probabilities"):
        return RequestError(422, f"{name} must have {limits.get('min_length') or limits['max_length']} numbers")
    _, _, wish = error["msg"].removeprefix("Value error, ").partition(" should ")
    return RequestError(422, f"{name} must {wish}")
