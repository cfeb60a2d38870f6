"""What the tests of gRPC share: requests, their answers and errors, and a service that answers over REST and gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

import app
import contract
import grpc_server
import open_inference_pb2 as pb
from open_inference_pb2_grpc import GRPCInferenceServiceStub
from schemas import N_FEATURES
from service import Service
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


def measured(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


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


@asynccontextmanager
async def serving(**settings) -> AsyncIterator[tuple[Service, Callable[[], grpc.aio.Channel]]]:
    """The service over gRPC alone, in this event loop. Gives it and a function that connects to it."""
    service = Service(Settings(grpc_port=0, **settings))
    service.start()
    try:
        async with grpc_server.serve(service) as port:
            yield service, lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    finally:
        await service.stop()


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 30))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)
