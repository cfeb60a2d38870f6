"""Turn pictures of digits into features: POST /features takes a PNG or JPEG, and answers with 64 numbers."""

import gc
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Body, FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

from chassis import server, telemetry
from chassis.errors import HANDLERS, RequestError
from fast import FastRoute, Shortcut
from schemas import CONTENT_TYPES, MORE_TYPES, SENTENCES, FeaturesResponse, Picture, error_responses
from service import Service
from settings import Settings, read_settings


class PictureRoute(FastRoute):
    """A route of which the body is a picture as it is in its file."""

    content_types, wanted = CONTENT_TYPES, SENTENCES[415]


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service by `settings`, or by those in the environment."""
    settings = settings or read_settings()
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        service.start()
        # What has been imported stays. A garbage collector that goes through it again halts every request.
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
        exception_handlers=HANDLERS,
    )
    fast = APIRouter(route_class=PictureRoute)

    @fast.post(
        "/features",
        tags=["Preprocessing"],
        summary="Turn a picture into features",
        response_model=FeaturesResponse,
        responses=error_responses(400, 413, 415, 422, 503),
        openapi_extra={"requestBody": MORE_TYPES},
        max_body_size=settings.max_body_bytes,
    )
    async def features(picture: Annotated[Picture, Body(media_type=CONTENT_TYPES[0])]):
        """Find the ink in a picture, dark on light or light on dark, drawn or photographed, and count it."""
        return {"features": await service.preprocess(picture.root), "version": service.version}

    app.routes.extend(fast.routes)  # include_router would wrap them in what they avoid

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The process can do its work", responses=error_responses(503))
    async def readyz(request: Request) -> dict[str, str]:
        if request.state.leaving:  # server.py sets it
            raise RequestError(503, "the service is shutting down")
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics():
        return PlainTextResponse(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)

    return telemetry.Telemetry(Shortcut(app))


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
