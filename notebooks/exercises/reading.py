"""Which readings of a weather station are right?"""

import math

from pydantic import TypeAdapter, ValidationError

notebook = "02_fastapi"
minutes = 5
hints = [
    "`Annotated[float, Field(ge=0)]` is a number of at least 0. A list can have it as the type of its items.",
    "`strict=True` in a Field takes no text for a number, and no `true`. `min_length` and `max_length` bound a list.",
    "`pattern` searches in the text. To match all of it, begin with `^` and end with `$`.",
]


def stub():
    """Return the type of a reading."""
    from pydantic import BaseModel

    class Reading(BaseModel):
        station: str
        celsius: list[float]

    return Reading


def solution():
    """Say in the type all that the model relies on: then no function has to check it again, and /docs says it, too.

    NaN needs no word of its own here: it is not between any two numbers, and so the bounds refuse it.
    """
    from typing import Annotated

    from pydantic import BaseModel, Field

    Celsius = Annotated[float, Field(strict=True, ge=-90, le=60)]

    class Reading(BaseModel):
        station: str = Field(pattern="^[A-Z]{3}$")
        celsius: list[Celsius] = Field(min_length=1, max_length=24)

    return Reading


def with_bounds_alone():
    from typing import Annotated

    from pydantic import BaseModel, Field

    class Reading(BaseModel):
        station: str = Field(pattern="^[A-Z]{3}$")
        celsius: list[Annotated[float, Field(ge=-90, le=60)]] = Field(min_length=1, max_length=24)

    return Reading


def with_part_of_a_name():
    from typing import Annotated

    from pydantic import BaseModel, Field

    class Reading(BaseModel):
        station: str = Field(pattern="[A-Z]{3}")
        celsius: list[Annotated[float, Field(strict=True, ge=-90, le=60)]] = Field(min_length=1, max_length=24)

    return Reading


def with_any_count():
    from typing import Annotated

    from pydantic import BaseModel, Field

    class Reading(BaseModel):
        station: str = Field(pattern="^[A-Z]{3}$")
        celsius: list[Annotated[float, Field(strict=True, ge=-90, le=60)]]

    return Reading


wrong = [
    (with_bounds_alone, "a text"),
    (with_part_of_a_name, "four letters"),
    (with_any_count, "no temperature at all"),
]


def check(reading):
    kind = TypeAdapter(reading())
    for good in ([11.5, 12], [-90], [60] * 24):
        if not passes(kind, "LIS", good):
            return f'the station "LIS" and {len(good)} temperature(s), the first {good[0]}, are right, but refused.'
    cases = {
        "a temperature of 61": ("LIS", [11.5, 61]),
        "a temperature of -91": ("LIS", [-91]),
        "NaN": ("LIS", [math.nan]),
        'a text, "12", for a number': ("LIS", ["12"]),
        "true for a number": ("LIS", [True]),
        "null for a number": ("LIS", [None]),
        "a list with no temperature at all": ("LIS", []),
        "a list of 25 temperatures": ("LIS", [12] * 25),
        "a name of four letters": ("LISB", [12]),
        "a name of two letters": ("LI", [12]),
        "a name in small letters": ("lis", [12]),
        "a name with a digit": ("LI5", [12]),
    }
    for name, (station, celsius) in cases.items():
        if passes(kind, station, celsius):
            return f"{name} is accepted."
    return ""


def passes(kind, station, celsius):
    try:
        kind.validate_python({"station": station, "celsius": celsius})
    except ValidationError:
        return False
    return True
