"""Keep what the pipeline has answered: POST /results stores results, GET /results lists them, newest first."""

import contextlib
import gc
from collections import Counter
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.routing import Match
from starlette.types import ASGIApp

import server
import telemetry
from database import Database
from errors import HANDLERS, Refused, answer_http_error
from fast import FastRoute, Shortcut
from schemas import DIGITS, Id, ListReply, Result, StoreReply, StoreRequest, SummaryReply, error_replies
from settings import Settings, read_settings
from writer import Writer


def answer_other_method(request: Request, error: HTTPException) -> Response:
    """Name all methods of a path. Starlette names those of one route, and /results has two."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    error.headers = {"Allow": ", ".join(sorted({method for route in routes for method in route.methods}))}
    return answer_http_error(request, error)


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service by `settings`, or by those in the environment."""
    settings = settings or read_settings()
    database = Database(settings.database_url)
    writer: Writer

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        nonlocal writer
        writer = Writer(database.insert, settings.max_write_queue)
        with contextlib.suppress(Refused):  # one that cannot be used yet does not stop the service
            await writer.write([])
        # What has been imported stays. A garbage collector that goes through it again halts every request.
        gc.collect()
        gc.freeze()
        yield {"leaving": False}
        await writer.drain()
        database.close()
        telemetry.log_lines.flush()

    # FastAPI, with the assets of /docs from this machine instead of from the internet
    app = FastAPIOffline(
        title="storage",
        description="Keeps every prediction of the pipeline, once.",
        lifespan=lifespan,
        exception_handlers={**HANDLERS, 405: answer_other_method},
    )
    fast = APIRouter(route_class=FastRoute)

    @fast.post(
        "/results",
        tags=["Results"],
        summary="Store results",
        response_model=StoreReply,
        responses=error_replies(400, 413, 415, 422, 503),
        max_body_size=settings.max_write_bytes,
    )
    async def store(request: StoreRequest):
        """Store each result whose id is new. When this answers, all of them are on disk."""
        await writer.write([result.to_row() for result in request.results])
        return {"stored": len(request.results)}

    app.routes.extend(fast.routes)  # include_router would wrap them in what they avoid

    @app.get("/results", tags=["Results"], summary="List results, newest first", responses=error_replies(422, 503))
    def newest(
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        before: Annotated[Id | None, Query(description="`next` of the page before")] = None,
        digit: Annotated[int | None, Query(ge=0, lt=DIGITS)] = None,
    ) -> ListReply:
        """List a page of results, of one predicted digit or of all."""
        rows, next_before = database.newest(limit, before, digit)
        return ListReply(results=[Result.from_row(row) for row in rows], next=next_before)

    @app.get("/results/summary", tags=["Results"], summary="Count results", responses=error_replies(503))
    def summary() -> SummaryReply:
        """Count all results, by predicted digit and by model version."""
        by_digit, by_model_version = Counter({str(digit): 0 for digit in range(DIGITS)}), Counter()
        for digit, version, count in database.count():
            by_digit[str(digit)] += count
            by_model_version[version] += count
        return SummaryReply(total=by_digit.total(), by_digit=by_digit, by_model_version=by_model_version)

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The process can do its work", responses=error_replies(503))
    async def readyz(request: Request) -> dict[str, str]:
        if request.state.leaving:  # server.py sets it
            raise Refused(503, "the service is shutting down")
        await writer.write([])
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics():
        return PlainTextResponse(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)

    return telemetry.Telemetry(Shortcut(app))


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
