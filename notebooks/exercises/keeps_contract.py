"""Requests that tell a service with a fault from one without: nine services, made from the step's own app.py."""

import json
from functools import cache
from types import SimpleNamespace

import numpy as np

from lab.launch import STEPS

notebook = "01_flask"
minutes = 30
hints = [
    "Write a list of pairs, a body and the status that it must get, and go through it. The table in the README of "
    "steps/01_flask names the kinds of bodies.",
    "If it is not 200, look at the text as well: it must be JSON, `json.loads` reads it, with a key `error`.",
    "A body of an exact size: `body.ljust(1_000_001)` puts blanks behind it, which JSON allows. And the wrong type: "
    'ask("POST", "/inferir", body, "text/plain").',
]


def stub(ask, row):
    """Return whether a service keeps the contract: ask(method, path, body, type) gives a status and a text.

    `row` is a row of features, a 7. The body is text, and the type is application/json unless you name another.
    """
    status, text = ask("POST", "/inferir", json.dumps({"features": row}))
    return status == 200


def solution(ask, row):
    """A table of requests and statuses, as long as the contract: what the table does not name, nobody has tested.

    A status alone is not enough. The contract promises a list in the answer and a sentence in the error, so both are
    read. Each case differs from a good request in one thing only: otherwise another rule refuses it first.
    """
    good = json.dumps({"features": row})
    bad_rows = [row[1:], 7, None, [], [row, row]]
    bad_rows += [[value, *row[1:]] for value in (17, -1, True, None, "0", float("nan"), float("inf"))]
    cases = [(good, 200), (good.ljust(1_000_000), 200), (good.ljust(1_000_001), 413), (good[:-1], 400)]
    cases += [("", 400), ("[1]", 422), (json.dumps({"feature": row}), 422)]
    cases += [(json.dumps({"features": bad}), 422) for bad in bad_rows]
    answers = [(ask("POST", "/inferir", body), status) for body, status in cases]
    answers += [(ask("POST", "/inferir", good, "text/plain"), 415), (ask("GET", "/inferir"), 405)]
    answers += [(ask("GET", "/nothing"), 404), (ask("GET", "/livez"), 200), (ask("GET", "/readyz"), 200)]
    for (status, text), expected in answers:
        if status != expected:
            return False
        try:
            reply = json.loads(text)
        except ValueError:
            return False
        if status != 200 and not isinstance(reply.get("error"), str):
            return False
    return json.loads(ask("POST", "/inferir", good)[1]) == {"prediction": [7]}


def bad_values(ask, row, values):
    bodies = [json.dumps({"features": [value, *row[1:]]}) for value in values]
    return all(ask("POST", "/inferir", body)[0] == 422 for body in bodies)


def only_good_requests(ask, row):
    return '"prediction":[7]' in ask("POST", "/inferir", json.dumps({"features": row}))[1]


def without_nan(ask, row):
    return only_good_requests(ask, row) and bad_values(ask, row, [17, -1, "0", None])


def without_true(ask, row):
    return only_good_requests(ask, row) and bad_values(ask, row, [17, -1, "0", None, float("nan")])


def only_statuses(ask, row):
    def status(body, kind="application/json"):
        return ask("POST", "/inferir", body, kind)[0]

    good = json.dumps({"features": row})
    return (
        bad_values(ask, row, [17, True, float("nan")])
        and only_good_requests(ask, row)
        and [status(body) for body in ("seven", "{}", json.dumps({"features": row[1:]}))] == [400, 422, 422]
        and [status(good, "text/plain"), status(good.ljust(1_000_001))] == [415, 413]
    )


def wants_400(ask, row):
    return ask("POST", "/inferir", json.dumps({"features": row[1:]}))[0] == 400


wrong = [
    (wants_400, "no fault"),
    (only_good_requests, "17"),
    (without_nan, "NaN"),
    (without_true, "true"),
    (only_statuses, "HTML"),
]

# What the service does, and how it comes to that: a text in app.py, and what stands there instead.
FAULTS = {
    "answers with a number, not with a list of one": ("prediction.tolist()}", "prediction.tolist()[0]}"),
    "takes 17 for a number from 0 to 16": ("LEAST <= value <= MOST", "LEAST <= value"),
    "takes NaN for a number from 0 to 16": ("not LEAST <= value <= MOST", "value < LEAST or value > MOST"),
    "takes true for a number": ("isinstance(value, float)", "isinstance(value, float | bool)"),
    "takes 63 numbers": (" or len(row) != len(model.FEATURE_NAMES)", ""),
    "answers 500 to text that is not JSON": ('raise BadRequest("the body is not JSON") from error', "raise"),
    "takes JSON under another type": ('request.mimetype != "application/json"', "False"),
    "takes a body over the limit": ('"MAX_BODY_BYTES", 1_000_000', '"MAX_BODY_BYTES", 100_000_000'),
    "answers errors in HTML": ("@app.errorhandler(HTTPException)", ""),
}
ROW = [0.0, 16, 7.5, *[0] * 61]


@cache
def client(fault):
    """A client of the service of step 01, with a fault, around a model that answers 7 to everything."""
    sevens = SimpleNamespace(predict=lambda rows: np.array([7]))
    names = {
        "__name__": "digits",
        "__file__": __file__,
        "model": SimpleNamespace(load=lambda folder: sevens, ModelError=OSError, Estimator=object, FEATURE_NAMES=ROW),
    }
    source = (STEPS / "01_flask/app.py").read_text(encoding="utf-8")
    changes = [("import model\n", ""), ("from contract import HIGH, LOW\n", "LOW, HIGH = 0, 16\n")]
    for before, after in [*changes, *([FAULTS[fault]] if fault else [])]:
        assert source.count(before) == 1, f"{before!r} is not once in app.py: correct this exercise"
        source = source.replace(before, after)
    exec(source, names)
    app = names["create_app"]()
    app.logger.disabled = True
    return app.test_client()


def check(keeps_contract):
    def keeps(fault):
        def ask(method, path, body="", kind="application/json"):
            reply = client(fault).open(path, method=method, data=body, content_type=kind)
            return reply.status_code, reply.text

        return keeps_contract(ask, ROW)

    if not keeps(""):
        return "a service with no fault gets False from you. 400 is for text that is not JSON, 422 for the rest."
    missed = [fault for fault in FAULTS if keeps(fault)]
    if missed:
        return f"{len(missed)} of {len(FAULTS)} services with a fault get True from you, the first {missed[0]!r}."
    return ""
