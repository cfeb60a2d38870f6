"""Serve the model: POST /inferir takes one row of features and answers with one prediction.

Settings are environment variables: HOST, PORT, MODEL_DIR, MAX_BODY_BYTES (README.md lists them).
"""

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flask import Flask, request
from werkzeug import Response
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    InternalServerError,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

import model
from contract import HIGH, LOW

LARGEST = float(np.finfo(np.float32).max)
LEAST, MOST = -LARGEST if LOW is None else LOW, LARGEST if HIGH is None else HIGH
if LOW is not None and HIGH is not None:
    NUMBER = f"a number from {LOW:g} to {HIGH:g}"
elif LOW is not None:
    NUMBER = f"a number of at least {LOW:g}"
elif HIGH is not None:
    NUMBER = f"a number of at most {HIGH:g}"
else:
    NUMBER = "a number that fits into a float32"


class EncodedBody(UnsupportedMediaType):
    """415 for a compressed body. Accept-Encoding tells clients how to send it instead."""

    description = "send the body as it is, without a Content-Encoding"

    def get_headers(self, *arguments: Any) -> list[tuple[str, str]]:
        return [*super().get_headers(*arguments), ("Accept-Encoding", "identity")]


def number_setting(name: str, default: int, most: int) -> int:
    """Read a whole number from the environment, or end the program with a sentence that names the setting."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or int(value) > most:
        sys.exit(f"{name} must be a whole number up to {most:,}, not {value!r}")
    return int(value)


def host_setting() -> str:
    """Read HOST, or end the program if this machine cannot listen there. Other tools set HOST too: conda's do."""
    host = os.environ.get("HOST") or "127.0.0.1"
    try:
        family, kind, *_, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        sys.exit(f"HOST is {host!r}: this machine cannot listen there ({reason}). Unset HOST, or set it to 127.0.0.1")
    return host


def parse_row(body: bytes) -> np.ndarray:
    """Return the row of features in a request body, as float32 of shape (1, features).

    Raises BadRequest if the body is not JSON in UTF-8, and UnprocessableEntity if it has no row as in contract.py.
    """
    if b"\0" in body[:4] or body.startswith((b"\xef\xbb\xbf", b"\xfe\xff", b"\xff\xfe")):  # json would read UTF-16
        raise BadRequest("the body is not in UTF-8: send JSON in UTF-8, without a byte order mark")
    try:
        # As floats, numbers of any length can be compared. Python refuses to read an int of more than 4,300 digits.
        payload = json.loads(body.decode(), parse_int=float)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(payload, dict) or "features" not in payload:
        raise UnprocessableEntity('the body must be a JSON object with a key "features"')
    row = payload["features"]
    if not isinstance(row, list) or len(row) != len(model.FEATURE_NAMES):
        raise UnprocessableEntity(f'"features" must be a list of {len(model.FEATURE_NAMES)} numbers')
    for place, value in enumerate(row):
        if not isinstance(value, float) or not LEAST <= value <= MOST:  # NaN fails this comparison too
            raise UnprocessableEntity(f"features[{place}] must be {NUMBER}, not {json.dumps(value)[:40]}")
    return np.array([row], dtype=np.float32)


def create_app(model_dir: str | Path | None = None) -> Flask:
    """Build the service around the model in `model_dir` (default: MODEL_DIR, else model/ beside this file).

    A model that cannot be used does not stop the service: it starts, says why at /readyz, and serves no predictions.
    """
    app = Flask(__name__)
    limit = number_setting("MAX_BODY_BYTES", 1_000_000, most=1_000_000_000)
    # One byte more than we accept: Werkzeug cuts a chunked body off here without an error, and so we notice it.
    app.config["MAX_CONTENT_LENGTH"] = limit + 1

    folder = Path(model_dir or os.environ.get("MODEL_DIR") or Path(__file__).parent / "model")
    estimator, problem = None, ""
    try:
        estimator = model.load(folder)
    except model.ModelError as error:
        problem = str(error)
        app.logger.error("not ready, model folder %s: %s (cause: %r)", folder, problem, error.__cause__)

    def require_model() -> model.Estimator:
        if not estimator:
            raise ServiceUnavailable(problem)
        return estimator

    @app.post("/inferir")
    def inferir() -> dict[str, list]:
        estimator = require_model()
        if request.mimetype != "application/json":
            raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
        if request.headers.get("Content-Encoding", "").strip().lower() not in ("", "identity"):
            raise EncodedBody
        body = request.get_data()
        if len(body) > limit:
            raise RequestEntityTooLarge
        prediction = estimator.predict(parse_row(body)).ravel()
        if prediction.dtype.kind == "f" and not np.isfinite(prediction).all():
            app.logger.error("the model answered %s to %s", prediction, body[:1000])
            raise InternalServerError("the model's prediction is not a finite number: it cannot use these features")
        return {"prediction": prediction.tolist()}

    @app.get("/livez")
    def livez() -> dict[str, str]:
        """The process is up."""
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> dict[str, str]:
        """The process can do its work; while it cannot, 503 says why."""
        require_model()
        return {"status": "ready"}

    @app.errorhandler(HTTPException)
    def answer_error(error: HTTPException) -> Response:
        """Every error, ours or Flask's, as {"error": sentence} with its own status and headers."""
        sentence = f"the body is larger than {limit:,} bytes" if error.code == 413 else error.description
        response = error.get_response()
        response.content_type = "application/json"
        response.data = json.dumps({"error": sentence})
        return response

    return app


if __name__ == "__main__":
    create_app().run(host=host_setting(), port=number_setting("PORT", 8000, most=65_535))
