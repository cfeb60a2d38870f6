"""Inference over gRPC: one channel to all replicas. It gives each call to the next one and repeats lost calls."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from grpc import ChannelConnectivity, StatusCode
from grpc.aio import AioRpcError, Channel, insecure_channel

import clients
import open_inference_pb2 as pb
from addresses import read_grpc_target, split_urls
from chassis.errors import RequestError
from chassis.telemetry import request_id
from clients import FAILED, Prediction, Unavailable
from coalescing import CALLS
from contract import NAME
from grpc_options import OPTIONS
from open_inference_pb2_grpc import GRPCInferenceServiceStub
from tensors import UNREADABLE, make_request, read_response

Response = TypeVar("Response")

RENEW_SECONDS, GRACE_SECONDS = 1, 60
NO_HEALTHY_REPLICA = "backend unhealthy"  # the library's own words
# Codes that say what is wrong with the request, whether the replica or the library sends them
REFUSALS = StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.RESOURCE_EXHAUSTED
NO_ANSWER = {
    StatusCode.UNAVAILABLE: "cannot be reached",
    StatusCode.CANCELLED: "cannot be reached",
    StatusCode.DEADLINE_EXCEEDED: "has not answered in time",
}
NONSENSE = "has given an answer that makes no sense"


class Inference(clients.Inference):
    """Inference at a name, which may stand for many replicas, or at one or several IP addresses.

    ValueError if the URLs are neither.
    """

    def __init__(self, urls: str):
        self.urls = split_urls(urls)
        self.target, self.is_name, addresses = read_grpc_target(urls)
        self.calls = 4 * CALLS if self.is_name else CALLS * addresses

    async def open(self) -> None:
        self._connect()
        self._closing = set[asyncio.Task[None]]()
        self._renewing = asyncio.create_task(self._renew())

    async def close(self) -> None:
        for task in (self._renewing, *self._closing):
            task.cancel()
        for channel in self._channels:
            await channel.close()

    def _connect(self) -> None:
        """Make a channel to the healthy replicas, and one to all of them, which connects when it is needed."""
        options = [OPTIONS, {**OPTIONS, "grpc.inhibit_health_checking": 1}]
        self._channels: list[Channel] = [
            insecure_channel(self.target, options=list(chosen.items())) for chosen in options
        ]
        self._healthy, self._all = map(GRPCInferenceServiceStub, self._channels)

    async def _renew(self) -> None:
        """Replace a channel that reaches no replica at a name.

        If DNS does not know a name, a channel asks again after 1 s, 2 s, 3 s and at last 2 minutes. Among containers,
        DNS does not know a service while it is down. A new channel asks at once.
        """
        while self.is_name:
            await asyncio.sleep(RENEW_SECONDS)
            if self._channels[0].get_state() is ChannelConnectivity.TRANSIENT_FAILURE:
                for channel in self._channels:
                    self._closing.add(task := asyncio.create_task(channel.close(GRACE_SECONDS)))
                    task.add_done_callback(self._closing.discard)
                self._connect()

    async def predict(self, rows: list[list[float]], seconds: float) -> list[Prediction]:
        request = make_request(rows)
        try:
            response: pb.ModelInferResponse = await self._call(lambda stub: stub.ModelInfer, request, seconds)
            return read_response(response, len(rows))
        except AioRpcError as error:
            raise self._explain(error) from error
        except UNREADABLE as error:
            raise Unavailable(self.name, NONSENSE) from error

    async def check(self, seconds: float) -> tuple[bool, str | None]:
        """Ask for the model's metadata, which a replica gives if its model can be used. One replica is enough."""
        try:
            await self._call(lambda stub: stub.ModelMetadata, pb.ModelMetadataRequest(name=NAME), seconds)
        except AioRpcError as error:
            return False, replica_sentence(error) or f"it {NO_ANSWER.get(error.code(), NONSENSE)}"
        return True, None

    async def _call(
        self,
        method: Callable[[GRPCInferenceServiceStub], Callable[..., Awaitable[Response]]],
        request: pb.ModelInferRequest | pb.ModelMetadataRequest,
        seconds: float,
    ) -> Response:
        """Return the response. AioRpcError if there is none, CancelledError if the caller has gone."""
        began, metadata = asyncio.get_running_loop().time(), (("x-request-id", request_id.get() or ""),)
        try:
            return await method(self._healthy)(request, timeout=seconds, metadata=metadata)
        except AioRpcError as error:
            if NO_HEALTHY_REPLICA not in (error.details() or ""):
                raise
        seconds -= asyncio.get_running_loop().time() - began
        return await method(self._all)(request, timeout=seconds, metadata=metadata)  # one of them says why

    def _explain(self, error: AioRpcError) -> RequestError:
        """Return what the client of the gateway gets instead of predictions."""
        code, sentence = error.code(), replica_sentence(error)
        if sentence is None:
            if NO_ANSWER.get(code) == "cannot be reached":
                FAILED.labels(self.name).inc()  # the last attempt; the library does not report the ones before
            return Unavailable(self.name, NO_ANSWER.get(code, NONSENSE))
        if code is StatusCode.INVALID_ARGUMENT:
            return RequestError(422, sentence)
        if code is StatusCode.RESOURCE_EXHAUSTED and not is_of_replica(error):  # more bytes than it takes
            return RequestError(413, f"the batch is too large for inference: {sentence}")
        return Unavailable(self.name, f"cannot help: {sentence}")


def replica_sentence(error: AioRpcError) -> str | None:
    """Return the sentence of an error that a replica has reported; None if the library has found the error itself."""
    if error.code() is StatusCode.DEADLINE_EXCEEDED:
        return None
    return error.details() if is_of_replica(error) or error.code() in REFUSALS else None


def is_of_replica(error: AioRpcError) -> bool:
    """Return whether a replica sent the error: it adds a request id, which the library's own errors do not have."""
    return "x-request-id" in (error.trailing_metadata() or ())
