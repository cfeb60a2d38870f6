"""The public service of the pipeline: POST /inferir takes rows of features or a picture, `/` has a page to draw on."""

import asyncio
import gc
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

from api_key import KeyRequired, add_key_to_openapi
from chassis import server, telemetry
from chassis.errors import HANDLERS, JSON, RequestError
from chassis.limits import BodyLimit, stop_if_gone
from fast import FastPath
from pipeline import Pipeline
from request import MANUAL, read_request
from responses import Health, Listing, PipelineResponse, Summary, error_responses, list_error_responses
from settings import Settings, read_settings

STATIC = Path(__file__).parent / "static"
# Windows may call a script plain text, and browsers then refuse it.
for suffix, media_type in {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}.items():
    mimetypes.add_type(media_type, suffix)
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:",  # scripts of this service alone
    "Cache-Control": "no-cache",  # a new version is seen at once
}
HEALTH_SECONDS = 1


class PageFiles(StaticFiles):
    """The files of the page, with its headers."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(PAGE_HEADERS)
        return response


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service by `settings`, or by those in the environment."""
    settings = settings or read_settings()
    pipeline = Pipeline(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, bool]]:
        await pipeline.start()
        # What is imported stays in memory. Without freeze(), the garbage collector goes through it again and again.
        gc.collect()
        gc.freeze()
        yield {"leaving": False}
        await pipeline.stop()
        telemetry.log_lines.flush()

    # FastAPI, with the assets of /docs from this machine instead of from the internet
    app = FastAPIOffline(
        title="inferir",
        description="Send a row of features or a picture, get the prediction.",
        lifespan=lifespan,
        redirect_slashes=False,  # behind TLS, a redirect would send clients to http://
        exception_handlers=HANDLERS,
    )

    @app.post(
        "/inferir",
        tags=["Inference"],
        summary="Predict",
        response_model=PipelineResponse,
        responses=error_responses(400, 413, 415, 422, 503),
        openapi_extra=MANUAL,
    )
    async def inferir(request: Request) -> Response:
        """Predict for a picture, for a row of features, or for each row of a batch."""
        asked = await read_request(request)
        with stop_if_gone(request):
            return JSON(await pipeline.infer(asked))

    @app.get("/results", tags=["History"], summary="List results", responses=list_error_responses(422, 503))
    async def results(
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        before: Annotated[str | None, Query(description="`next` of the page before this one")] = None,
        prediction: Annotated[str | None, Query(description="only results with this prediction")] = None,
    ) -> Listing:
        query = {"limit": limit, "before": before, "prediction": prediction}
        return await pipeline.storage.list(query, pipeline.seconds)

    @app.get("/results/summary", tags=["History"], summary="Count results", responses=error_responses(503))
    async def summary() -> Summary:
        return await pipeline.storage.summarize(pipeline.seconds)

    @app.get("/services", tags=["Operations"], summary="Which services are ready")
    async def services() -> dict[str, Health]:
        health = await asyncio.gather(*(service.health(HEALTH_SECONDS) for service in pipeline.services))
        return {service.name: found for service, found in zip(pipeline.services, health, strict=True)}

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The process may get requests", responses=error_responses(503))
    async def readyz(request: Request) -> dict[str, str]:
        """Whether the services behind it are ready is at /services: without one of them, others still answer."""
        if request.state.leaving:  # server.py sets it
            raise RequestError(503, "the service is shutting down")
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics() -> Response:
        return PlainTextResponse(telemetry.metrics() + pipeline.storage.queue_metrics(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)

    app.mount("/static", PageFiles(directory=STATIC), name="static")
    if settings.api_key:
        add_key_to_openapi(app)
        app.add_middleware(KeyRequired, key=settings.api_key.get_secret_value())
    asgi = server.RootPath(BodyLimit(FastPath(app), settings.max_body_bytes), settings.root_path)
    return telemetry.Telemetry(asgi, max_id=128)


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
