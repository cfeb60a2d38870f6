"""The Open Inference Protocol over gRPC: the same model and the same batches, for clients that send binary messages.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse

import grpc_tensors
import open_inference_pb2 as pb
import open_inference_pb2_grpc as pb_grpc
from chassis.errors import RequestError
from contract import NAME
from grpc_interceptor import CallInterceptor
from schemas import N_FEATURES
from service import STOP_SECONDS, Service
from settings import Settings
from v2 import VERSION


@asynccontextmanager
async def serve(service: Service) -> AsyncIterator[int | None]:
    """Answer calls at GRPC_PORT while the block runs, then finish the calls in flight. Yields the port.

    Without GRPC_PORT, it does nothing. Raises RuntimeError if another program uses the port.
    """
    settings = service.settings
    if settings.grpc_port is None:
        yield None
        return
    interceptor = CallInterceptor()
    server = grpc.aio.server(interceptors=[interceptor], options=options(settings))
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
        await stop(server, interceptor)


def options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        # A client that connects again also finds new replicas.
        ("grpc.max_connection_age_ms", round(1000 * settings.max_connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", 1000 * STOP_SECONDS),
        # Only workers of one service share a port. Without this, two services with the same port would share it, too.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        # Clients may send a ping every 10 seconds, also between calls.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


async def stop(server: grpc.aio.Server, interceptor: CallInterceptor) -> None:
    """Take no new calls, and wait for those in flight. Do not wait for clients that watch the health: they stay."""
    stopping = asyncio.create_task(server.stop(STOP_SECONDS))
    await asyncio.wait([stopping], timeout=0.1)
    if interceptor.in_flight:
        await asyncio.wait(interceptor.in_flight, timeout=STOP_SECONDS)
    await server.stop(None)
    await stopping


class OpenInference(pb_grpc.GRPCInferenceServiceServicer):
    """The methods of the protocol. grpc_interceptor.py turns what they raise into a status code and a sentence."""

    def __init__(self, service: Service):
        self._service = service

    async def ServerLive(
        self, request: pb.ServerLiveRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(
        self, request: pb.ServerReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._service.model is not None)

    async def ServerMetadata(
        self, request: pb.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="inferir", version=VERSION)

    async def ModelReady(
        self, request: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        require_known(request.name, request.version)
        return pb.ModelReadyResponse(ready=self._service.model is not None)

    async def ModelMetadata(
        self, request: pb.ModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelMetadataResponse:
        require_known(request.name, request.version)
        model = self._service.require_model()
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=NAME,
            versions=[VERSION],
            platform="onnx_onnxv1" if model.format == "onnx" else "sklearn_joblib",
            inputs=[tensor(name="features", datatype="FP32", shape=[-1, N_FEATURES])],
            outputs=[tensor(**output) for output in grpc_tensors.describe_outputs(model)],
        )

    async def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        require_known(request.model_name, request.model_version)
        model = self._service.require_model()
        wanted = grpc_tensors.choose_outputs(request, model)
        predictions, probabilities = await self._service.predict(grpc_tensors.read_rows(request))
        response = pb.ModelInferResponse(model_name=NAME, model_version=VERSION, id=request.id)
        for key, value in model.info.items():
            response.parameters[key].string_param = value
        for name, array in (("prediction", predictions), ("probabilities", probabilities)):
            if array is not None and name in wanted:
                grpc_tensors.add_output(response, name, array)
        return response


def require_known(name: str, version: str) -> None:
    """Raises RequestError (404) if this is not the name and the version of the model."""
    if name != NAME or version not in ("", VERSION):
        raise RequestError(404, f"there is no such model: ask for {NAME}, version {VERSION}")
