"""Turn pictures of digits into features: POST /features takes a PNG or JPEG, and answers with 64 numbers."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

from chassis import server, telemetry
from chassis.errors import HANDLERS, JSON, RequestError
from chassis.limits import BodyLimit, stop_if_gone
from schemas import CONTENT_TYPES, OTHER_NAMES, PICTURE_BODY, SENTENCES, FeaturesResponse, error_responses
from service import Service
from settings import Settings, read_settings


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service from `settings`, or from those in the environment."""
    settings = settings or read_settings()
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, bool]]:
        service.start()
        # What is imported stays in memory. Without freeze(), the garbage collector goes through it again and again.
        gc.collect()
        gc.freeze()
        yield {"leaving": False}
        service.stop()
        telemetry.log_lines.flush()

    # FastAPI, with the assets of /docs from this machine instead of from the internet
    app = FastAPIOffline(
        title="preprocess",
        description="Send a picture of a handwritten digit, get its 64 features.",
        lifespan=lifespan,
        redirect_slashes=False,  # behind TLS, a redirect would send clients to http://
        exception_handlers=HANDLERS,
    )

    @app.post(
        "/features",
        tags=["Preprocessing"],
        summary="Turn a picture into features",
        response_model=FeaturesResponse,
        responses=error_responses(400, 413, 415, 422, 503),
        openapi_extra={"requestBody": PICTURE_BODY},
    )
    async def features(request: Request) -> Response:
        """Find the ink in a picture, dark on light or light on dark, drawn or photographed, and count it."""
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type not in CONTENT_TYPES + OTHER_NAMES:
            raise RequestError(415, SENTENCES[415])
        picture = await request.body()
        with stop_if_gone(request):
            made = await service.preprocess(picture)
        return JSON({"features": made, "version": service.version})

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The process can do its work", responses=error_responses(503))
    async def readyz(request: Request) -> dict[str, str]:
        if request.state.leaving:  # server.py sets it
            raise RequestError(503, "the service is shutting down")
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics() -> Response:
        return PlainTextResponse(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)

    return telemetry.Telemetry(BodyLimit(app, settings.max_body_bytes))


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
