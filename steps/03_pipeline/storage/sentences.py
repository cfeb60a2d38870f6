"""What an error says: one sentence that a person can act on."""

from pydantic_core import ErrorDetails

from chassis.errors import RequestError

MAX_RESULTS = 1024  # in one request

KEY_TAKEN = "this Idempotency-Key was used for another request"
SENTENCES: dict[int | str, str] = {
    400: "the body is not JSON",
    413: f"a request has at most {MAX_RESULTS:,} results: send several requests",
    415: "send JSON, with the header Content-Type: application/json",
    422: "results[3].features must have at least 1 number",
    503: "the database cannot be used (database or disk is full): try again later",
}


# Pydantic has the words of Python for these.
IN_JSON = {"list_type": "be a valid array", **dict.fromkeys(("model_type", "dict_type"), "be an object")}


def not_json(message: str) -> RequestError:
    """Make a sentence of what the reader of JSON says."""
    if "out of range" in message:  # a whole number of thousands of digits
        return RequestError(422, "a number in the body has too many digits")
    return RequestError(400, SENTENCES[400])


def explain(error: ErrorDetails, key: str) -> RequestError:
    """Make a sentence of the first thing that Pydantic found: which place, and what it must be.

    `key` is the key that the body, an object, must have.
    """
    kind, limits = error["type"], error.get("ctx", {})
    if kind == "too_long" and error["loc"] == ("results",):
        return RequestError(413, SENTENCES[413])
    if not error["loc"]:
        return RequestError(422, f'the body must be a JSON object with a key "{key}"')
    place = [part for part in error["loc"] if part != "[key]"]  # Pydantic's word for the name of a timing
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)[1:80]
    if kind == "missing":
        return RequestError(422, f"{name} is missing")
    if place[-1] in ("features", "probabilities"):
        if kind == "too_short":
            return RequestError(422, f"{name} must have at least 1 number")
        if kind == "too_long":
            return RequestError(422, f"{name} must have at most {limits['max_length']:,} numbers")
    _, _, wish = error["msg"].removeprefix("Value error, ").partition(" should ")
    return RequestError(422, f"{name} must {IN_JSON.get(kind, wish)}")
