"""Every error as {"error": "a sentence that a person can act on"}, whoever found it."""

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

CLIENT_GONE = 499  # nobody reads this answer; it is for the log and the metrics, as in nginx


class RequestError(Exception):
    """A request that gets no answer but a status and a sentence."""

    def __init__(self, status: int, sentence: str, **headers: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Error(BaseModel):
    error: str = Field(description="a sentence that says what to do")


def documented(sentences: dict[int | str, str], *statuses: int | str) -> dict[int | str, dict]:
    """The errors that a route may answer with, for the manual, each with one of `sentences` as an example."""
    return {
        status: {"model": Error, "content": {"application/json": {"example": {"error": sentences[status]}}}}
        for status in statuses
    }


def error_response(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps({"error": sentence}), status, headers, media_type="application/json")


def answer_request_error(request: Request, refused: RequestError) -> Response:
    return error_response(refused.status, refused.sentence, refused.headers)


def answer_http_error(request: Request, error: HTTPException) -> Response:
    return error_response(error.status_code, f"{error.detail}: {request.method} {request.scope['path']}", error.headers)


def answer_invalid(request: Request, error: RequestValidationError) -> Response:
    """What FastAPI has found in a request to a plain route."""
    first = error.errors()[0]
    return error_response(422, f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}")


def answer_bug(request: Request, error: Exception) -> Response:
    return error_response(500, "the service has failed on this request; its log says how")


HANDLERS = {
    RequestError: answer_request_error,
    HTTPException: answer_http_error,
    RequestValidationError: answer_invalid,
    Exception: answer_bug,
}
