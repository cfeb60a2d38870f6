"""What the tests of gRPC share: requests, their answers and errors, and a service that answers over REST and gRPC."""

from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from starlette.testclient import TestClient

import app
import contract
import grpc_server
import open_inference_pb2 as pb
from open_inference_pb2_grpc import GRPCInferenceServiceStub
from schemas import N_FEATURES
from settings import Settings

STEP = Path(app.__file__).parent
ROW = contract.EXAMPLE
NAME = "inference.GRPCInferenceService"
INFER = f"/{NAME}/ModelInfer"
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def infer_request(rows=(ROW,), raw: bool = True, **changes) -> pb.ModelInferRequest:
    rows = np.array(rows, dtype="<f4")
    tensor = {"name": "features", "datatype": "FP32", "shape": rows.shape}
    request = pb.ModelInferRequest(model_name=contract.NAME, inputs=[tensor])
    if raw:
        request.raw_input_contents.append(rows.tobytes())
    else:
        request.inputs[0].contents.fp32_contents.extend(rows.ravel().tolist())
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request


def row_of(value: float) -> list[list[float]]:
    return [[value] * N_FEATURES]


def arrays(response: pb.ModelInferResponse) -> dict[str, list]:
    """The outputs by name, as other clients read them."""
    types = {"INT64": "<i8", "FP32": "<f4"}
    return {
        output.name: np.frombuffer(raw, types[output.datatype]).reshape(output.shape).tolist()
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def error_of(call: Callable, *args, **options) -> grpc.RpcError:
    """Make a call that must fail. Returns its error."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **{"timeout": 20, **options})
    return caught.value


def id_of(call) -> str:
    """The id that our server gives to each response, also to an error."""
    return dict(call.trailing_metadata())["x-request-id"]


class Served:
    """The service over REST and gRPC: `rest` is a client of the first, `channel`, `stub` and `health` of the second."""

    def __init__(self, settings: Settings):
        self.settings, self.port = settings, None

    def __enter__(self):
        @asynccontextmanager
        async def serve(service, original=grpc_server.serve):
            async with original(service) as self.port:
                yield

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grpc_server, "serve", serve)
            self.rest = TestClient(app.create_app(self.settings), raise_server_exceptions=False).__enter__()
        self.channel = self.connect()
        self.stub, self.health = GRPCInferenceServiceStub(self.channel), HealthStub(self.channel)
        return self

    def __exit__(self, *error):
        self.channel.close()
        self.rest.__exit__(*error)

    def connect(self, **options) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", **options)
