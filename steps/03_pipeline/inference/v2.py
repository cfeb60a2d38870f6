"""The Open Inference Protocol, version 2, over REST: the same model for clients that speak the standard.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import math
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.routing import BaseRoute

from chassis.errors import RequestError
from fast import FastRoute
from schemas import FEATURES, MAX_ROWS, SENTENCES, SEVEN, Ink, Row, error_responses
from service import Service

NAME, VERSION = "digits", "1"
EXAMPLE = {"inputs": [{"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": SEVEN}]}

Number = Literal[*("FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),]


# They fail fast, or a body full of errors would take seconds to tell them all.
Flat = Annotated[list[Ink], Field(fail_fast=True)]
Nested = Annotated[list[Row], Field(fail_fast=True)]


class Input(BaseModel):
    name: Literal["features"]
    shape: tuple[Annotated[int, Field(strict=True, ge=1)], Literal[FEATURES]]
    datatype: Number
    data: Annotated[Flat | Nested, Field(union_mode="left_to_right")]


class RequestedOutput(BaseModel):
    name: Literal["prediction", "probabilities"]


class InferRequest(BaseModel):
    id: str | None = None
    inputs: tuple[Input]
    outputs: list[RequestedOutput] = Field([], max_length=2, description="all, unless some are named")

    @classmethod
    def parse(cls, body: bytes) -> "InferRequest":
        """Read the body of a request. RequestError with 400 or 413 if it is no such thing: the protocol has no 422."""
        try:
            request = cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid" and "out of range" in first["msg"]:
                raise RequestError(400, "a number in the body has too many digits") from error
            if first["type"] == "json_invalid":
                sentence = "the body is not JSON (tensors in binary are not taken: ask your client for JSON)"
                raise RequestError(400, sentence) from error
            parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]]
            path = "".join(part for part in parts if not part.startswith(".list["))  # the form of `data` that was tried
            raise RequestError(400, f"{path[1:] or 'the body'}: {first['msg'].lower()}") from error
        (tensor,) = request.inputs
        if tensor.shape[0] > MAX_ROWS:
            raise RequestError(413, SENTENCES[413])
        if np.size(tensor.data) != math.prod(tensor.shape):
            raise RequestError(400, f"inputs[0].data has {np.size(tensor.data):,} numbers, which is not {tensor.shape}")
        return request


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str


class Output(Tensor):
    data: list[float]


class InferResponse(BaseModel):
    model_config = {"protected_namespaces": ()}

    id: str | None = None
    model_name: str = NAME
    model_version: str = VERSION
    outputs: list[Output]


class ModelMetadata(BaseModel):
    name: str = NAME
    versions: list[str] = [VERSION]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class InferRoute(FastRoute):
    content_types = ()  # tritonclient sends none


def create_routes(service: Service) -> list[BaseRoute]:
    """The routes of the protocol, of which /infer is a fast one."""
    unready = error_responses(503)
    tags = ["Open Inference Protocol V2"]
    routes = APIRouter(prefix="/v2", tags=tags)
    fast = APIRouter(prefix=f"/v2/models/{NAME}", tags=tags, route_class=InferRoute)

    @routes.get("", summary="What the server is")
    async def server_metadata() -> dict:
        return {"name": "inferir", "version": VERSION, "extensions": []}

    @routes.get("/health/live", summary="The server is up")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready", summary="The server can do its work", responses=unready)
    async def ready(request: Request) -> dict[str, bool]:
        service.require_ready(request)
        return {"ready": True}

    @routes.get(f"/models/{NAME}/versions/{VERSION}", summary="What the model takes and gives", responses=unready)
    @routes.get(f"/models/{NAME}", summary="What the model takes and gives", responses=unready)
    async def model_metadata() -> ModelMetadata:
        loaded = service.require_model()
        return ModelMetadata(
            platform="onnx_onnxv1" if loaded.format == "onnx" else "sklearn_joblib",
            inputs=[Tensor(name="features", datatype="FP32", shape=[-1, FEATURES])],
            outputs=[
                Tensor(name="prediction", datatype="INT64", shape=[-1]),
                Tensor(name="probabilities", datatype="FP32", shape=[-1, len(loaded.classes)]),
            ],
        )

    @routes.get(f"/models/{NAME}/versions/{VERSION}/ready", summary="The model can predict", responses=unready)
    @routes.get(f"/models/{NAME}/ready", summary="The model can predict", responses=unready)
    async def model_ready(request: Request) -> dict:
        service.require_ready(request)
        return {"name": NAME, "ready": True}

    declared = {
        "summary": "Predict",
        "response_model": InferResponse,
        "responses": error_responses("4XX", 503),
        "max_body_size": service.settings.max_body_bytes,
    }

    @fast.post("/infer", **declared)
    @fast.post(f"/versions/{VERSION}/infer", **declared)
    async def infer(request: Annotated[InferRequest, Body(examples=[EXAMPLE])]):
        rows = np.array(request.inputs[0].data, dtype=np.float32).reshape(-1, FEATURES)
        digits, probabilities = await service.predict(rows)
        outputs = [
            {"name": "prediction", "datatype": "INT64", "shape": digits.shape, "data": digits},
            {"name": "probabilities", "datatype": "FP32", "shape": probabilities.shape, "data": probabilities.ravel()},
        ]
        wanted = {output.name for output in request.outputs}
        outputs = [output for output in outputs if not wanted or output["name"] in wanted]
        reply = {"model_name": NAME, "model_version": VERSION, "outputs": outputs}
        return reply if request.id is None else {"id": request.id, **reply}

    return [*routes.routes, *fast.routes]
