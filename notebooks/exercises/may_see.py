"""Which features may the model see?"""

import math

notebook = "01_flask"
minutes = 5
hints = [
    "`bool` is a kind of `int` in Python, so `isinstance(True, int)` holds. `type(True)` is `bool`, though.",
    "With NaN, `<`, `<=`, `>` and `>=` are all false. So `not value < 0` lets it pass, and `0 <= value` does not.",
]


def stub(features):
    """Return whether `features`, as json.loads() gives it, is a row of 64 numbers from 0 to 16."""
    return len(features) == 64


def solution(features):
    """Ask for what is right, not for what is wrong: a list of errors to look for is never complete.

    type() is exact where isinstance() also takes True for a number, and NaN is not between 0 and 16, since it is not
    between any two numbers.
    """
    if type(features) is not list or len(features) != 64:
        return False
    return all(type(value) in (int, float) and 0 <= value <= 16 for value in features)


def only_the_type(features):
    return isinstance(features, list) and len(features) == 64 and all(type(value) in (int, float) for value in features)


def with_isinstance(features):
    if not isinstance(features, list) or len(features) != 64:
        return False
    return all(isinstance(value, (int, float)) and 0 <= value <= 16 for value in features)


def what_is_wrong(features):
    if not isinstance(features, list) or len(features) != 64:
        return False
    return not any(type(value) not in (int, float) or value < 0 or value > 16 for value in features)


wrong = [
    (only_the_type, "17"),
    (with_isinstance, "true"),
    (what_is_wrong, "NaN"),
]


def check(may_see):
    row = [0.0, 16, 7.5, *[0] * 61]
    if not may_see(row):
        return "this is a row, with the numbers 0, 16 and 7.5, and it is refused."
    cases = {
        "a row of 63 numbers": row[1:],
        "a number for the row": 7,
        "null": None,
        "a text of 64 digits": "0" * 64,
        "an object of 64 keys": dict.fromkeys(map(str, range(64)), 0),
        "a text among the numbers": ["0", *row[1:]],
        "null among the numbers": [None, *row[1:]],
        "the number 17": [17, *row[1:]],
        "the number -1": [-1, *row[1:]],
        "true among the numbers": [True, *row[1:]],
        "NaN among the numbers": [math.nan, *row[1:]],
        "Infinity among the numbers": [math.inf, *row[1:]],
    }
    for name, features in cases.items():
        try:
            seen = may_see(features)
        except Exception as error:
            return f"{name} makes it raise {type(error).__name__}, which the client gets as 500: return False."
        if seen:
            return f"{name} would get to the model."
    return ""
