"""The Open Inference Protocol, version 2, over REST: the same model for clients that speak the standard.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Body, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, model_validator
from pydantic_core import from_json

from chassis.errors import JSON, NOT_JSON, RequestError, find_body_error, lower_first
from chassis.limits import stop_if_gone
from contract import CLASSES, EXAMPLE, NAME
from schemas import KIND, MAX_ROWS, N_FEATURES, SENTENCES, Feature, Prediction, Row, error_responses
from service import Service

VERSION = "1"
DATATYPE = {int: "INT64", float: "FP64", str: "BYTES"}[KIND]  # of a prediction
EXAMPLES = [{"inputs": [{"name": "features", "shape": [1, N_FEATURES], "datatype": "FP32", "data": EXAMPLE}]}]

FORMS = {"inputs": "a list of one tensor, named features", "shape": f"[rows, {N_FEATURES}]"}

# They fail fast: to list every error of a body that is full of them would take seconds.
Flat = Annotated[list[Feature], Field(fail_fast=True)]
Nested = Annotated[list[Row], Field(fail_fast=True)]
Rows = Annotated[int, Field(strict=True, ge=1)]
Columns = Annotated[int, Field(strict=True, ge=N_FEATURES, le=N_FEATURES)]


class Input(BaseModel):
    name: Literal["features"]
    shape: tuple[Rows, Columns]
    datatype: Literal["FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]
    data: Annotated[Flat | Nested, Field(union_mode="left_to_right")]

    def rows(self) -> np.ndarray:
        """Return rows of features, float32 of shape (n, features). Raises RequestError (400, 413)."""
        if self.shape[0] > MAX_ROWS:
            raise RequestError(413, SENTENCES[413])
        data = np.array(self.data)
        if data.size != math.prod(self.shape):
            raise RequestError(400, f"inputs[0].data has {data.size:,} numbers, which is not {self.shape}")
        if "INT" in self.datatype and (data % 1).any():
            raise RequestError(400, f"inputs[0].data has a fraction, which {self.datatype} cannot hold")
        return data.astype(np.float32).reshape(self.shape)


class RequestedOutput(BaseModel):
    name: Literal["prediction", "probabilities"]


class InferRequest(BaseModel):
    id: str | None = Field(None, pattern="^")  # of whole characters: a pattern refuses half of one
    inputs: tuple[Input]
    outputs: list[RequestedOutput] | None = Field(None, max_length=2, description="all, unless some are named")

    @model_validator(mode="before")
    @classmethod
    def read_json(cls, body: Any) -> Any:
        """Read a body that is not called JSON: clients of the protocol send it with any content type."""
        return from_json(body) if isinstance(body, bytes) else body


class Tensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str


class Output(Tensor):
    data: list[Prediction] | list[float]


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


def explain(request: Request, error: RequestValidationError) -> RequestError:
    """Make one sentence of what FastAPI found in a request. The protocol has no 415 and no 422: all of it is 400."""
    first: dict[str, Any] = error.errors()[0]
    whole = find_body_error(request, error)
    if whole and whole.status == 422:
        return RequestError(400, whole.sentence)
    if whole or first["type"] == "value_error":
        return RequestError(400, f"{NOT_JSON} (tensors in binary are not taken: ask your client for JSON)")
    place, message = first["loc"][1:], lower_first(first["msg"]).replace(" after validation", "")
    name = [part for part in place if isinstance(part, str)][-1:]
    if first["type"] in ("too_long", "missing") and name and name[0] in FORMS:
        place, message = place[: place.index(name[0]) + 1], f"it must be {FORMS[name[0]]}"
    return RequestError(400, f"{describe_place(place)}: {message}")


def describe_place(parts: Sequence[int | str]) -> str:
    """Write a place in a body as a client would: inputs[0].data[3]."""
    named = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts]
    # Pydantic also names the form of `data` that it tried, such as "list[...]".
    return "".join(part for part in named if not part.startswith(".list["))[1:] or "the body"


def create_router(service: Service) -> APIRouter:
    """Return the routes of the protocol."""
    # tritonclient sends no content type.
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol V2"], strict_content_type=False)
    unready = error_responses(503)

    @router.get("", summary="What the server is")
    async def server_metadata() -> dict[str, Any]:
        return {"name": "inferir", "version": VERSION, "extensions": []}

    @router.get("/health/live", summary="The server is up")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", summary="The server can do its work", responses=unready)
    async def ready(request: Request) -> dict[str, bool]:
        service.require_ready(request)
        return {"ready": True}

    @router.get(f"/models/{NAME}/versions/{VERSION}", summary="What the model takes and gives", responses=unready)
    @router.get(f"/models/{NAME}", summary="What the model takes and gives", responses=unready)
    async def model_metadata() -> ModelMetadata:
        model = service.require_model()
        outputs = [Tensor(name="prediction", datatype=DATATYPE, shape=[-1])]
        if model.has_probabilities:
            outputs.append(Tensor(name="probabilities", datatype="FP32", shape=[-1, len(CLASSES or [])]))
        return ModelMetadata(
            platform="onnx_onnxv1" if model.format == "onnx" else "sklearn_joblib",
            inputs=[Tensor(name="features", datatype="FP32", shape=[-1, N_FEATURES])],
            outputs=outputs,
        )

    @router.get(f"/models/{NAME}/versions/{VERSION}/ready", summary="The model can predict", responses=unready)
    @router.get(f"/models/{NAME}/ready", summary="The model can predict", responses=unready)
    async def model_ready(request: Request) -> dict[str, Any]:
        service.require_ready(request)
        return {"name": NAME, "ready": True}

    declared: dict[str, Any] = {
        "summary": "Predict",
        "response_model": InferResponse,
        "responses": error_responses("4XX", 500, 503),
    }

    @router.post(f"/models/{NAME}/infer", **declared)
    @router.post(f"/models/{NAME}/versions/{VERSION}/infer", **declared)
    async def infer(request: Request, body: Annotated[InferRequest, Body(examples=EXAMPLES)]) -> Response:
        with stop_if_gone(request):
            predictions, probabilities = await service.predict(body.inputs[0].rows())
        outputs: list[dict[str, Any]] = [
            {"name": "prediction", "datatype": DATATYPE, "shape": predictions.shape, "data": predictions.tolist()}
        ]
        if probabilities is not None:
            shape, data = probabilities.shape, probabilities.ravel()
            outputs.append({"name": "probabilities", "datatype": "FP32", "shape": shape, "data": data})
        if wanted := {output.name for output in body.outputs or []}:
            outputs = [output for output in outputs if output["name"] in wanted]
        answer = {"model_name": NAME, "model_version": VERSION, "outputs": outputs}
        return JSON(answer if body.id is None else {"id": body.id, **answer})

    return router
