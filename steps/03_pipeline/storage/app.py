"""Keep what the pipeline has answered: POST /results stores results, GET /results lists them, newest first."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.routing import Match, Route
from starlette.types import ASGIApp

import schemas
from chassis import server, telemetry
from chassis.errors import HANDLERS, JSON, RequestError, answer_http_error
from chassis.limits import BodyLimit
from json_body import json_body, read_json
from nats_consumer import Consumer
from schemas import error_responses, list_error_responses
from service import Service
from settings import Settings, read_settings


async def answer_other_method(request: Request, error: HTTPException) -> Response:
    """Name all methods of a path. Starlette names those of one route, and /results has two."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    error.headers = {"Allow": ", ".join(sorted(methods))}
    return await answer_http_error(request, error)


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service by `settings`, or by those in the environment."""
    settings = settings or read_settings()
    service = Service(settings)
    consumer = Consumer(settings, service) if settings.nats_url else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, bool]]:
        await service.start()
        if consumer:
            consumer.start()
        # What is imported stays in memory. Without freeze(), the garbage collector goes through it again and again.
        gc.collect()
        gc.freeze()
        yield {"leaving": False}
        if consumer:
            await consumer.stop()
        await service.stop()
        telemetry.log_lines.flush()

    # FastAPI, with the assets of /docs from this machine instead of from the internet
    app = FastAPIOffline(
        title="storage",
        description="Keeps every prediction of the pipeline, once.",
        lifespan=lifespan,
        redirect_slashes=False,  # behind TLS, a redirect would send clients to http://
        exception_handlers={**HANDLERS, 405: answer_other_method},
    )

    @app.post(
        "/results",
        tags=["Results"],
        summary="Store results",
        response_model=schemas.StoreResponse,
        responses=error_responses(400, 413, 415, 422, 503),
        openapi_extra=json_body(schemas.StoreRequest),
    )
    async def store(request: Request) -> Response:
        """Store each result whose id is new. When this answers, all of them are on disk."""
        body = await read_json(request, schemas.StoreRequest)
        all_new = await service.store(body.results)
        return JSON({"stored": len(body.results), "all_new": all_new})

    @app.post(
        "/claims",
        tags=["Results"],
        summary="Claim a key",
        responses=schemas.claim_error_responses(400, 413, 415, 422, 503),
        openapi_extra=json_body(schemas.ClaimRequest),
    )
    async def claim(request: Request) -> schemas.ClaimResponse:
        """Give an Idempotency-Key to a request, for a day. Another request with the same key gets 422.

        If the same request comes again, the answer has what is stored for it.
        """
        body = await read_json(request, schemas.ClaimRequest)
        return schemas.ClaimResponse(claimed=True, results=await service.claim(body))

    @app.get(
        "/results", tags=["Results"], summary="List results, newest first", responses=list_error_responses(422, 503)
    )
    def newest(request: Annotated[schemas.ListRequest, Query()]) -> schemas.ListResponse:
        """List a page of results, of one prediction or of all."""
        return service.newest(request)

    @app.get("/results/summary", tags=["Results"], summary="Count results", responses=error_responses(503))
    def count() -> schemas.SummaryResponse:
        """Count all results, by prediction and by model version."""
        return service.count()

    @app.get(
        "/dead-letters", tags=["Operations"], summary="List dead letters", responses=list_error_responses(422, 503)
    )
    def dead_letters(page: Annotated[schemas.Page, Query()]) -> schemas.DeadLettersResponse:
        """List a page of what came through the broker and cannot be stored, newest first."""
        return service.dead_letters(page)

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The process can do its work", responses=error_responses(503))
    async def readyz(request: Request) -> schemas.ReadyResponse:
        if request.state.leaving:  # server.py sets it
            raise RequestError(503, "the service is shutting down")
        if consumer:
            consumer.require_broker()
        return await service.ready()

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics() -> Response:
        return PlainTextResponse(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)

    return telemetry.Telemetry(BodyLimit(app, settings.max_write_bytes))


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
