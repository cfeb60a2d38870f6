"""The public door of the pipeline: POST /inferir takes rows of features or a picture, `/` has a page to draw on."""

import asyncio
import gc
import mimetypes
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Body, FastAPI, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

from api_key import KeyRequired, add_key_to_openapi
from chassis import server, telemetry
from chassis.errors import HANDLERS, RequestError
from fast import Shortcut
from pipeline import Pipeline
from request import MANUAL, DoorRoute
from responses import Health, Listing, PipelineResponse, Summary, error_responses
from schemas import EXAMPLES, InferirRequest
from settings import Settings, read_settings

STATIC = Path(__file__).parent / "static"
# Windows may call a script plain text, and browsers then refuse it.
for name, type in {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}.items():
    mimetypes.add_type(type, name)
HEALTH_SECONDS = 1


class Page(StaticFiles):
    """The files of the page: scripts come from nowhere else, and a new version is seen at once."""

    headers = {
        "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:",
        "Cache-Control": "no-cache",
    }

    def file_response(self, *arguments, **options):
        reply = super().file_response(*arguments, **options)
        reply.headers.update(self.headers)
        return reply


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service by `settings`, or by those in the environment."""
    settings = settings or read_settings()
    pipeline = Pipeline(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        await pipeline.start()
        # What has been imported stays. A garbage collector that goes through it again halts every request for 70 ms.
        gc.collect()
        gc.freeze()
        yield {"leaving": False}
        await pipeline.stop()
        telemetry.log_lines.flush()

    app = FastAPIOffline(
        title="inferir",
        description="Send a picture of a handwritten digit or its 64 features, get the digit.",
        lifespan=lifespan,
        exception_handlers=HANDLERS,
    )
    fast = APIRouter(route_class=DoorRoute)

    @fast.post(
        "/inferir",
        tags=["Inference"],
        summary="Recognize digits",
        response_model=PipelineResponse,
        responses=error_responses(400, 413, 415, 422, 503),
        max_body_size=settings.max_body_bytes,
        openapi_extra=MANUAL,
    )
    async def inferir(request: Annotated[InferirRequest, Body(openapi_examples=EXAMPLES)]):
        """Recognize the digit in a picture, in a row of features, or in each row of a batch."""
        return await pipeline.infer(request)  # a Question, which DoorRoute has made

    app.routes.extend(fast.routes)  # include_router would wrap them in what they avoid

    @app.get("/results", tags=["History"], summary="List what was recognized", responses=error_responses(422, 503))
    async def results(
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        before: Annotated[str | None, Query(description="`next` of the page before this one")] = None,
        digit: Annotated[int | None, Query(ge=0, le=9)] = None,
    ) -> Listing:
        return await pipeline.storage.list({"limit": limit, "before": before, "digit": digit}, pipeline.seconds)

    @app.get("/results/summary", tags=["History"], summary="Count what was recognized", responses=error_responses(503))
    async def summary() -> Summary:
        return await pipeline.storage.summarize(pipeline.seconds)

    @app.get("/services", tags=["Operations"], summary="Which services are ready")
    async def services() -> dict[str, Health]:
        answers = await asyncio.gather(*(service.health(HEALTH_SECONDS) for service in pipeline.services))
        return {service.name: answer for service, answer in zip(pipeline.services, answers, strict=True)}

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The pipeline can recognize", responses=error_responses(503))
    async def readyz(request: Request) -> dict[str, str]:
        if request.state.leaving:  # server.py sets it
            raise RequestError(503, "the service is shutting down")
        # Without preprocess, rows of features are still recognized; without storage, everything is.
        inference = await pipeline.inference.health(HEALTH_SECONDS)
        if not inference["ready"]:
            raise RequestError(503, f"inference is not ready: {inference['reason']}")
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics():
        return PlainTextResponse(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page():
        return FileResponse(STATIC / "index.html", headers=Page.headers)

    app.mount("/static", Page(directory=STATIC), name="static")
    guarded = Shortcut(app)
    if settings.api_key:
        add_key_to_openapi(app)
        guarded = KeyRequired(guarded, settings.api_key.get_secret_value())
    return telemetry.Telemetry(guarded, max_id=128)


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
