"""The Open Inference Protocol over gRPC: the same model and the same batches, for clients that call in binary.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

import open_inference_pb2 as pb
import open_inference_pb2_grpc as pb_grpc
from chassis.errors import RequestError
from grpc_interceptor import Calls
from schemas import FEATURES, MAX_ROWS, SENTENCES
from service import STOP_SECONDS, Service
from v2 import NAME, VERSION

OUTPUTS = {"prediction": "INT64", "probabilities": "FP32"}


@asynccontextmanager
async def door(service: Service) -> AsyncIterator[int | None]:
    """Take calls at GRPC_PORT for as long as the block runs, and then answer those under way. Gives the port.

    Without GRPC_PORT there is no door. RuntimeError if another program has the port.
    """
    settings = service.settings
    if settings.grpc_port is None:
        yield None
        return
    options = {
        "grpc.max_receive_message_length": settings.max_body_bytes,
        # Who has to connect anew looks for new replicas, too.
        "grpc.max_connection_age_ms": round(1000 * settings.max_connection_age_seconds),
        "grpc.max_connection_age_grace_ms": 1000 * STOP_SECONDS,
        # Two services that have the same port by mistake would share it.
        "grpc.so_reuseport": int(settings.workers > 1),
        # How often clients may ask whether we are still there, and that they may do it between calls.
        "grpc.http2.min_ping_interval_without_data_ms": 10_000,
        "grpc.keepalive_permit_without_calls": 1,
    }
    calls = Calls()
    server = grpc.aio.server(interceptors=[calls], options=list(options.items()))
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(OpenInference(service), server)
    status = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    for name in ("", pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name):
        await status.set(name, HealthCheckResponse.SERVING if service.model else HealthCheckResponse.NOT_SERVING)

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        logging.error("gRPC cannot listen on %s: stop the program that does, or change GRPC_PORT", address)
        raise
    await server.start()
    logging.info("gRPC running on %s:%d", host, port)
    try:
        yield port
    finally:
        await status.enter_graceful_shutdown()
        # Those under way are waited for, but not those who watch our health: they would stay.
        leaving = asyncio.create_task(server.stop(STOP_SECONDS))
        await asyncio.wait([leaving], timeout=0.1)
        if calls.under_way:
            await asyncio.wait(calls.under_way, timeout=STOP_SECONDS)
        await server.stop(None)
        await leaving


class OpenInference(pb_grpc.GRPCInferenceServiceServicer):
    """The methods of the protocol. What they raise, calls.py makes a code and a sentence of."""

    def __init__(self, service: Service):
        self._service = service

    async def ServerLive(self, request, context):
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request, context):
        return pb.ServerReadyResponse(ready=self._service.model is not None)

    async def ServerMetadata(self, request, context):
        return pb.ServerMetadataResponse(name="inferir", version=VERSION)

    async def ModelReady(self, request, context):
        require_known(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._service.model is not None)

    async def ModelMetadata(self, request, context):
        require_known(request.name, request.version)
        loaded = self._service.require_model()
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=NAME,
            versions=[VERSION],
            platform="onnx_onnxv1" if loaded.format == "onnx" else "sklearn_joblib",
            inputs=[tensor(name="features", datatype="FP32", shape=[-1, FEATURES])],
            outputs=[
                tensor(name="prediction", datatype=OUTPUTS["prediction"], shape=[-1]),
                tensor(name="probabilities", datatype=OUTPUTS["probabilities"], shape=[-1, len(loaded.classes)]),
            ],
        )

    async def ModelInfer(self, request, context):
        require_known(request.model_name, request.model_version)
        wanted = read_outputs(request)
        digits, probabilities = await self._service.predict(read_rows(request))
        reply = pb.ModelInferResponse(model_name=NAME, model_version=VERSION, id=request.id)
        for key, value in self._service.model.info.items():
            reply.parameters[key].string_param = value
        for name, tensor in (("prediction", digits.astype("<i8")), ("probabilities", probabilities.astype("<f4"))):
            if name in wanted:
                reply.outputs.add(name=name, datatype=OUTPUTS[name], shape=tensor.shape)
                reply.raw_output_contents.append(tensor.tobytes())
        return reply


def require_known(name: str, version: str) -> None:
    if name != NAME or version not in ("", VERSION):
        raise RequestError(404, f"there is no such model: ask for {NAME}, version {VERSION}")


def read_outputs(request: pb.ModelInferRequest) -> set[str]:
    """The names of the outputs that the client wants. RequestError with 400 if there are no such outputs."""
    wanted = {output.name for output in request.outputs[: len(OUTPUTS) + 1]}
    if len(request.outputs) > len(OUTPUTS) or not wanted <= OUTPUTS.keys():
        raise RequestError(400, f"outputs: ask for {' and '.join(OUTPUTS)}, or for none to get both")
    return wanted or set(OUTPUTS)


def read_rows(request: pb.ModelInferRequest) -> np.ndarray:
    """The features, float32 of shape (n, 64). RequestError with 400 if they are no such thing."""
    if [tensor.name for tensor in request.inputs[:2]] != ["features"]:
        raise RequestError(400, "inputs: send one tensor, with the name features")
    (tensor,), raw = request.inputs, request.raw_input_contents
    if tensor.datatype != "FP32":
        raise RequestError(400, f"inputs[0].datatype must be FP32, not {tensor.datatype[:20]!r}")
    if len(tensor.shape) != 2 or tensor.shape[0] < 1 or tensor.shape[1] != FEATURES:
        raise RequestError(
            400, f"inputs[0].shape must be [n, {FEATURES}] with at least one row, not {tensor.shape[:4]}"
        )
    if tensor.shape[0] > MAX_ROWS:
        raise RequestError(400, SENTENCES[413])
    if len(raw) + tensor.HasField("contents") != 1:
        raise RequestError(400, "send the numbers once: in inputs[0].contents or in raw_input_contents")

    size = tensor.shape[0] * FEATURES
    if raw and len(raw[0]) != 4 * size:
        raise RequestError(
            400, f"raw_input_contents[0] has {len(raw[0]):,} bytes, and {tensor.shape} takes {4 * size:,}"
        )
    if not raw and len(tensor.contents.fp32_contents) != size:
        count = len(tensor.contents.fp32_contents)
        raise RequestError(400, f"inputs[0].contents.fp32_contents has {count:,} numbers, which is not {tensor.shape}")
    flat = np.frombuffer(raw[0], "<f4") if raw else np.array(tensor.contents.fp32_contents, np.float32)
    fit = (flat >= 0) & (flat <= 16)  # which NaN is not
    if not fit.all():
        place = int(fit.argmin())
        row, column = divmod(place, FEATURES)
        raise RequestError(400, f"features[{row}][{column}] must be a number from 0 to 16, not {flat[place]:g}")
    return flat.reshape(-1, FEATURES)
