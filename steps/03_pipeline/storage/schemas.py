"""What the routes take and give, as types: they check requests and make the manual at /docs."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, Field, ValidationError

from errors import Refused, documented

FEATURES, DIGITS = 64, 10
MAX_RESULTS, MAX_TIMINGS = 1024, 16  # in one request, in one result


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
    def from_row(cls, row: dict) -> "Result":
        return cls(**row, model=Model(version=row["model_version"], format=row["model_format"]))


class StoreRequest(BaseModel):
    """1 to 1,024 results."""

    results: list[Result] = Field(min_length=1, max_length=MAX_RESULTS, fail_fast=True)

    @classmethod
    def parse(cls, body: bytes) -> "StoreRequest":
        """Read the body of a request. Refused with 400, 413 or 422 if it is no such thing."""
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            raise explain(error.errors(include_url=False)[0]) from error


class StoreReply(BaseModel):
    stored: int = Field(description="how many results are on disk now, those that were before included", examples=[1])


class ListReply(BaseModel):
    results: list[Result]
    next: str | None = Field(description="`before` of the next page, or null after the last", examples=["7f3a.0"])


class SummaryReply(BaseModel):
    total: int = Field(examples=[3])
    by_digit: dict[str, int] = Field(examples=[{"0": 0, "1": 1, "2": 0, "3": 2}])
    by_model_version: dict[str, int] = Field(examples=[{"b5e7a46e61b8": 3}])


SENTENCES = {
    400: "the body is not JSON",
    413: f"a request has at most {MAX_RESULTS:,} results: send several requests",
    415: "send JSON, with the header Content-Type: application/json",
    422: "results[3].features must have 64 numbers",
    503: "the database cannot be used (database or disk is full): try again later",
}
error_replies = partial(documented, SENTENCES)


def explain(error: dict) -> Refused:
    """Make a sentence of the first thing that Pydantic has found: which place, and what it should be."""
    kind, place, limits = error["type"], error["loc"], error.get("ctx", {})
    if kind == "json_invalid" and "out of range" in error["msg"]:  # a whole number of thousands of digits
        return Refused(422, "a number in the body has too many digits")
    if kind == "json_invalid":
        return Refused(400, SENTENCES[400])
    if kind == "too_long" and place == ("results",):
        return Refused(413, SENTENCES[413])
    if not place:
        return Refused(422, 'the body must be a JSON object with a key "results"')
    place = [part for part in place if part != "[key]"]  # the name of a timing, not the timing
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:80]
    if kind == "missing":
        return Refused(422, f"{name} is missing")
    if kind in ("too_short", "too_long") and place[-1] in ("features", "probabilities"):
        return Refused(422, f"{name} must have {limits.get('min_length') or limits['max_length']} numbers")
    _, _, wish = error["msg"].removeprefix("Value error, ").partition(" should ")
    return Refused(422, f"{name} must {wish}")
