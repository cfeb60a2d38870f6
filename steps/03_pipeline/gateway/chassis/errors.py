"""Answer every error with {"error": "a sentence that a person can act on"}, wherever it was found."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

CLIENT_GONE = 499  # nobody reads this answer; it is for the log and the metrics, as in nginx
NOT_JSON = "the body is not JSON"
NOT_UTF8 = "the body is not in UTF-8: send JSON in UTF-8, without a byte order mark"
TOO_MANY_DIGITS = "a number in the body has too many digits"
WRONG_TYPE = "send JSON, with the header Content-Type: application/json"


class RequestError(HTTPException):
    """A request is answered with a status and a sentence instead of a result. Keywords are headers: Retry_After="1"."""

    def __init__(self, status: int, sentence: str, **headers: str):
        super().__init__(status, sentence, {name.replace("_", "-"): value for name, value in headers.items()})
        self.status, self.sentence = status, sentence

    def __str__(self) -> str:
        return self.sentence


class Error(BaseModel):
    error: str = Field(description="a sentence that says what to do")


class JSON(Response):
    """A response that orjson writes: fast, and it can write NumPy arrays."""

    media_type = "application/json"

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        if headers:
            return super().init_headers(headers)
        # The usual two, without the search for what else there may be: that takes longer than to write the body.
        length = str(len(self.body)).encode()
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", length)]

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def documented(sentences: Mapping[int | str, str], *statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """Describe the errors that a route may answer with, for the manual, each with one of `sentences` as an example."""
    return {
        status: {"model": Error, "content": {"application/json": {"example": {"error": sentences[status]}}}}
        for status in statuses
    }


def error_response(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSON({"error": sentence}, status, headers)


async def answer_request_error(request: Request, error: RequestError) -> Response:
    return error_response(error.status, error.sentence, error.headers)


async def answer_http_error(request: Request, error: AnyHTTPException) -> Response:
    """Answer an error that FastAPI or Starlette found. Its cause says what made a body unreadable."""
    cause = error.__cause__
    if isinstance(cause, ClientDisconnect):
        return await answer_disconnect(request, cause)
    if type(cause) is ValueError:  # json.loads refuses a whole number of thousands of digits
        return await answer_unreadable(request, "too_many_digits", TOO_MANY_DIGITS)
    if isinstance(cause, (UnicodeDecodeError, RecursionError)):
        return await answer_unreadable(request, "json_invalid", NOT_JSON)
    return error_response(error.status_code, f"{error.detail}: {request.method} {request.scope['path']}", error.headers)


async def answer_unreadable(request: Request, kind: str, sentence: str) -> Response:
    """Answer as if FastAPI had found it in the body: the application may have its own sentence for that."""
    found = RequestValidationError([{"type": kind, "loc": ("body",), "msg": sentence, "input": None}])
    return await request.app.exception_handlers[RequestValidationError](request, found)


async def answer_disconnect(request: Request, error: ClientDisconnect) -> Response:
    return error_response(CLIENT_GONE, "the client went away while it sent its body")


def find_body_error(request: Request, error: RequestValidationError) -> RequestError | None:
    """Return what is wrong with a body as a whole: it is not JSON (400), or is not called JSON (415). None: neither."""
    first: dict[str, Any] = error.errors()[0]
    missing = first["type"] == "missing" and tuple(first["loc"]) == ("body",)
    # FastAPI leaves a body as it is, in bytes, unless its content type is JSON.
    if isinstance(error.body, bytes) or (missing and "json" not in request.headers.get("content-type", "")):
        return RequestError(415, WRONG_TYPE)
    if missing or first["type"] == "json_invalid":
        return RequestError(400, NOT_JSON)
    return RequestError(422, TOO_MANY_DIGITS) if first["type"] == "too_many_digits" else None


def lower_first(message: str) -> str:
    """Return a message of Pydantic's as part of a sentence. Its other capitals may matter: FP32, [A-Z]."""
    return message[:1].lower() + message[1:]


async def answer_invalid(request: Request, error: RequestValidationError) -> Response:
    """Answer a request that does not have the types of its route."""
    first: dict[str, Any] = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    found = find_body_error(request, error) or RequestError(422, f"{place}: {lower_first(first['msg'])}")
    return await answer_request_error(request, found)


async def answer_bug(request: Request, error: Exception) -> Response:
    return error_response(500, "the service has failed on this request; its log says how")


HANDLERS: dict[type[Exception] | int, Any] = {
    RequestError: answer_request_error,
    AnyHTTPException: answer_http_error,
    ClientDisconnect: answer_disconnect,
    RequestValidationError: answer_invalid,
    Exception: answer_bug,
}
