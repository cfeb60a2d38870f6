"""The types of the fields of a result: what each may hold."""

import math
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, PlainValidator, WithJsonSchema

MAX_NUMBERS, MAX_TEXT, MAX_TIMINGS = 4096, 200, 16  # in features or probabilities, in a prediction, in timings


def check_iso(time: object) -> object:
    """Refuse what Pydantic would read as seconds since 1970, which have no zone."""
    if isinstance(time, datetime) or (isinstance(time, str) and time[4:5] == "-"):
        return time
    raise ValueError("Time should be ISO 8601 with a zone")


def in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:  # the first hours of the year 1, the last of 9999
        raise ValueError("Time should be in the years 1 to 9999 of UTC") from None


def check_count(timings: object) -> object:
    """Refuse thousands of timings before Pydantic lists everything that is wrong with them."""
    if isinstance(timings, dict) and len(timings) > MAX_TIMINGS:
        raise ValueError(f"Timings should be at most {MAX_TIMINGS}")
    return timings


def check_prediction(value: object) -> int | float | str:
    """Return a finite number or a text. Write 3.0 as 3, so that each number is written in one way."""
    if isinstance(value, str) and len(value) <= MAX_TEXT and "\0" not in value:  # PostgreSQL cannot store it
        return value
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:  # as many as JSON carries
        return value
    if isinstance(value, float) and math.isfinite(value):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    raise ValueError(f"Prediction should be a finite number, or text of at most {MAX_TEXT} characters")


# PostgreSQL cannot store the character 0, and a log does not show control characters as what they are.
Text = Annotated[str, Field(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Time = Annotated[AwareDatetime, BeforeValidator(check_iso), AfterValidator(in_utc)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Prediction = Annotated[
    int | float | str,
    PlainValidator(check_prediction),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "maxLength": MAX_TEXT}]}),
]
Timings = Annotated[
    dict[Id, Number],
    # Pydantic's schema says how names are written, but not that there are no others.
    Field(max_length=MAX_TIMINGS, json_schema_extra={"additionalProperties": False}),
    BeforeValidator(check_count),
]
