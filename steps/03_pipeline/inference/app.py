"""Serve a model: POST /inferir takes one row of features or a batch, and answers with a prediction for each row."""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import Body, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

import grpc_server
import schemas
import v2
from chassis import errors, server, telemetry
from chassis.errors import HANDLERS, JSON
from chassis.limits import BodyLimit, stop_if_gone
from contract import NAME
from fast import FastPath
from schemas import EXAMPLES, N_FEATURES, InferirRequest, InferirResponse, error_responses
from service import Service
from settings import Settings, read_settings


def create_app(settings: Settings | None = None) -> ASGIApp:
    """Build the service by `settings`, or by those in the environment."""
    settings = settings or read_settings()
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        service.start()
        # What is imported stays in memory. Each time the garbage collector went through it, every request would wait
        # for 70 ms.
        gc.collect()
        gc.freeze()
        async with grpc_server.serve(service):
            yield {"leaving": False}
        await service.stop()
        telemetry.log_lines.flush()

    # FastAPI, with the assets of /docs from this machine instead of from the internet
    app: FastAPI = FastAPIOffline(
        title="inferir",
        description=f"Send the {N_FEATURES} features of a row, get the prediction of the model {NAME!r}.",
        lifespan=lifespan,
        redirect_slashes=False,  # behind TLS, a redirect would send clients to http://
        exception_handlers={**HANDLERS, RequestValidationError: answer_invalid},
    )

    @app.post(
        "/inferir",
        tags=["Inference"],
        summary="Predict",
        response_model=InferirResponse,
        responses=error_responses(400, 413, 415, 422, 500, 503),
    )
    async def inferir(request: Request, body: Annotated[InferirRequest, Body(openapi_examples=EXAMPLES)]) -> Response:
        """Predict for one row of features, or for each row of a batch."""
        rows = np.array(body.features, dtype=np.float32).reshape(-1, N_FEATURES)
        with stop_if_gone(request):
            predictions, probabilities = await service.predict(rows)
        answer: dict[str, Any] = {"prediction": predictions.tolist()}
        if probabilities is not None:
            answer["probabilities"] = probabilities
        return JSON({**answer, "model": service.require_model().info})

    @app.get("/livez", tags=["Operations"], summary="The process is up")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", tags=["Operations"], summary="The process can do its work", responses=error_responses(503))
    async def readyz(request: Request) -> dict[str, str]:
        service.require_ready(request)
        return {"status": "ready"}

    @app.get("/metrics", tags=["Operations"], summary="Counts and durations", response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(telemetry.metrics(), media_type=CONTENT_TYPE_LATEST)

    app.include_router(v2.create_router(service))

    asgi: ASGIApp = app
    asgi = FastPath(app)  # optional: delete this line, and nothing changes but the speed
    asgi = server.RootPath(BodyLimit(asgi, settings.max_body_bytes), settings.root_path)
    return telemetry.Telemetry(asgi)


async def answer_invalid(request: Request, error: RequestValidationError) -> Response:
    """Say in one sentence what is wrong with a request, as its route says it."""
    path, in_body = request.scope["route"].path, error.errors()[0]["loc"][0] == "body"
    if in_body and path == "/inferir":
        found = errors.find_body_error(request, error) or schemas.explain(error.errors())
    elif in_body and path.startswith("/v2/"):
        found = v2.explain(request, error)
    else:
        return await errors.answer_invalid(request, error)
    return await errors.answer_request_error(request, found)


if __name__ == "__main__":
    server.run("app:create_app", read_settings())
