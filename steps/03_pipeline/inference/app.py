"""Serve the digit classifier: POST /inferir takes one row of features or a batch, and answers with digits."""

import gc
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Body, FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

import grpc_server
import v2
from chassis import server, telemetry
from chassis.errors import HANDLERS
from fast import FastRoute, Shortcut
from schemas import EXAMPLES, FEATURES, InferirRequest, InferirResponse, error_responses
from service import Service
from settings import Settings, read_settings


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service by `settings`, or by those in the environment."""
    settings = settings or read_settings()
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        service.start()
        # What has been imported stays. A garbage collector that goes through it again halts every request for 70 ms.
        gc.collect()
        gc.freeze()
        async with grpc_server.door(service):
            yield {"leaving": False}
        await service.stop()
        telemetry.log_lines.flush()

    # FastAPI, with the assets of /docs from this machine instead of from the internet
    app = FastAPIOffline(
        title="inferir",
        description="Send the 64 features of a handwritten digit, get the digit.",
        lifespan=lifespan,
        exception_handlers=HANDLERS,
    )
    fast = APIRouter(route_class=FastRoute)

    @fast.post(
        "/inferir",
        tags=["Inference"],
        summary="Recognize digits",
        response_model=InferirResponse,
        responses=error_responses(400, 413, 415, 422, 503),
        max_body_size=settings.max_body_bytes,
    )
    async def inferir(request: Annotated[InferirRequest, Body(openapi_examples=EXAMPLES)]):
        """Recognize the digit in a row of features, or in each row of a batch."""
        rows = np.array(request.features, dtype=np.float32).reshape(-1, FEATURES)
        digits, probabilities = await service.predict(rows)
        return {"prediction": digits, "probabilities": probabilities, "model": service.model.info}

    app.routes.extend(fast.routes)  # include_router would wrap them in what they avoid

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The process can do its work", responses=error_responses(503))
    async def readyz(request: Request) -> dict[str, str]:
        service.require_ready(request)
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics():
        return PlainTextResponse(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)

    app.routes.extend(v2.create_routes(service))
    return telemetry.Telemetry(Shortcut(app))


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
