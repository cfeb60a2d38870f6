"""Serve the digit classifier: POST /inferir takes one row of features and answers with one digit.

Settings are environment variables: HOST, PORT, MODEL_DIR, MAX_BODY_BYTES (README.md lists them).
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
from flask import Flask, request
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)

import model


def number_setting(name: str, default: int, most: int) -> int:
    """Read a whole number from the environment, or end the program with a sentence that names the setting."""
    value = os.environ.get(name) or str(default)
    if not value.isdecimal() or int(value) > most:
        sys.exit(f"{name} must be a whole number up to {most:,}, not {value!r}")
    return int(value)


def parse_row(body: bytes) -> np.ndarray:
    """Return the row of features in a request body, as float32 of shape (1, 64).

    Raises BadRequest if the body is not JSON, UnprocessableEntity if it is and holds no such row.
    """
    try:
        # As floats, a number of any length can be compared; Python's int refuses to read more than 4,300 digits.
        payload = json.loads(body, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(payload, dict) or "features" not in payload:
        raise UnprocessableEntity('the body must be a JSON object with a key "features"')
    row = payload["features"]
    if not isinstance(row, list) or len(row) != model.FEATURES:
        raise UnprocessableEntity(f'"features" must be a list of {model.FEATURES} numbers')
    for place, value in enumerate(row):
        if not isinstance(value, float) or not 0 <= value <= 16:  # NaN fails this comparison too
            raise UnprocessableEntity(f"features[{place}] must be a number from 0 to 16, not {json.dumps(value)[:40]}")
    return np.array([row], dtype=np.float32)


def create_app(model_dir: str | Path | None = None) -> Flask:
    """Build the service around the model in `model_dir` (default: MODEL_DIR, else model/ beside this file).

    A model that cannot be used does not stop the service: it starts, says why at /readyz, and serves no predictions.
    """
    app = Flask(__name__)
    limit = number_setting("MAX_BODY_BYTES", 1_000_000, most=1_000_000_000)
    # One byte more than we accept: Werkzeug cuts a chunked body off here without a word, and then we can tell.
    app.config["MAX_CONTENT_LENGTH"] = limit + 1

    folder = Path(model_dir or os.environ.get("MODEL_DIR") or Path(__file__).parent / "model")
    classifier = problem = None
    try:
        classifier = model.load(folder)
    except model.ModelError as error:
        problem = str(error)
        app.logger.error("not ready, model folder %s: %s (cause: %r)", folder, problem, error.__cause__)

    def require_model():
        if problem:
            raise ServiceUnavailable(problem)

    @app.post("/inferir")
    def inferir():
        require_model()
        if request.mimetype != "application/json":
            raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
        body = request.get_data()
        if len(body) > limit:
            raise RequestEntityTooLarge
        return {"prediction": classifier.predict(parse_row(body)).tolist()}

    @app.get("/livez")
    def livez():
        """The process is up."""
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz():
        """The process can do its work; while it cannot, 503 says why."""
        require_model()
        return {"status": "ready"}

    @app.errorhandler(HTTPException)
    def answer_error(error: HTTPException):
        """Every error, ours or Flask's, as {"error": sentence} with its own status and headers."""
        sentence = f"the body is larger than {limit:,} bytes" if error.code == 413 else error.description
        response = error.get_response()
        response.content_type = "application/json"
        response.data = json.dumps({"error": sentence})
        return response

    return app


if __name__ == "__main__":
    create_app().run(host=os.environ.get("HOST") or "127.0.0.1", port=number_setting("PORT", 8000, most=65_535))
