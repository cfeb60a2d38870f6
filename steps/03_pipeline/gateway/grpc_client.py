"""Inference over gRPC: one channel to all replicas, which gives each call to the next one and repeats what was lost.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_grpc.md
"""

import asyncio
import json
import struct
from ipaddress import ip_address
from math import isfinite
from urllib.parse import urlsplit

from grpc import ChannelConnectivity, StatusCode
from grpc.aio import AioRpcError, insecure_channel

import open_inference_pb2 as pb
from chassis.errors import RequestError
from chassis.telemetry import request_id
from clients import FAILED, Prediction, Unavailable
from coalescing import CALLS
from open_inference_pb2_grpc import GRPCInferenceServiceStub
from schemas import FEATURES

MODEL = "digits"
ROW = struct.Struct(f"<{FEATURES}f")
RENEW_SECONDS, GRACE_SECONDS = 1, 60
NOBODY_FIT = "backend unhealthy"  # the library's words for it
REFUSALS = StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.RESOURCE_EXHAUSTED
NO_ANSWER = {
    StatusCode.UNAVAILABLE: "cannot be reached",
    StatusCode.CANCELLED: "cannot be reached",
    StatusCode.DEADLINE_EXCEEDED: "has not answered in time",
}
NONSENSE = "has given an answer that makes no sense"
UNREADABLE = ValueError, KeyError, ArithmeticError, struct.error, AttributeError  # the library makes None of garbage

# What the library does by itself. Each call brings a shorter deadline. A prediction changes nothing, so it may be made
# again; who has refused one or is late with it is not asked again. A replica that says of itself that it is not fit, by
# grpc.health.v1, gets no calls; one that does not know that service counts as fit.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "timeout": "60s",
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.02s",
                "maxBackoff": "0.04s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],  # the latter by a server that stops
            },
        }
    ],
}
OPTIONS = {
    "grpc.service_config": json.dumps(SERVICE_CONFIG),
    "grpc.enable_http_proxy": 0,  # a proxy of this machine is for the internet
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.min_reconnect_backoff_ms": 500,  # an attempt to connect may take so long
    "grpc.dns_min_time_between_resolutions_ms": 500,
    "grpc.per_rpc_retry_buffer_size": 1_000_000,  # a larger call is not repeated; 1,024 rows have 262,179 bytes
    # Pings find a connection at whose other end nobody answers any more. How long grpcio 1.85 waits for an answer, the
    # last of these tells it; without it, that was measured to be a minute.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,  # as many as it takes
    "grpc.keepalive_timeout_ms": 2000,
    "grpc.http2.ping_timeout_ms": 2000,
}


class Inference:
    """Inference at a name, which may stand for many replicas, or at one or several IP addresses.

    ValueError if the URLs are neither.
    """

    name = "inference"

    def __init__(self, urls: str):
        self.urls = [url.strip() for url in urls.split(",")]
        places = [urlsplit(url) for url in self.urls]
        if not all(place.port for place in places):
            raise ValueError("a port is needed: grpc://HOST:PORT")
        kind, *others = {kind_of(place.hostname) for place in places}
        if others or (kind == "dns" and len(places) > 1):
            raise ValueError("several URLs must be of IP addresses, all of version 4 or all of version 6")
        self.named = kind == "dns"
        self.target = f"{kind}:{'///' * self.named}{','.join(place.netloc for place in places)}"
        self.calls = 4 * CALLS if self.named else CALLS * len(places)

    async def open(self) -> None:
        self._connect()
        self._renewing = asyncio.create_task(self._renew())

    async def close(self) -> None:
        self._renewing.cancel()
        for channel in self._channels:
            await channel.close()

    def _connect(self) -> None:
        """Make a channel to the replicas that are fit, and one to all of them, which connects when it is needed."""
        options = [OPTIONS, {**OPTIONS, "grpc.inhibit_health_checking": 1}]
        self._channels = [insecure_channel(self.target, options=list(chosen.items())) for chosen in options]
        self._fit, self._all = map(GRPCInferenceServiceStub, self._channels)

    async def _renew(self) -> None:
        """Replace a channel that reaches nobody at a name.

        A channel asks for a name that is gone again after 1 s, 2 s, 3 s and at last 2 minutes, and among containers a
        service's name is gone as long as the service is. A new channel asks at once.
        """
        while self.named:
            await asyncio.sleep(RENEW_SECONDS)
            if self._channels[0].get_state() is ChannelConnectivity.TRANSIENT_FAILURE:
                old = self._channels
                self._connect()
                await asyncio.gather(*(channel.close(GRACE_SECONDS) for channel in old))

    async def predict(self, rows: list[list[float]], seconds: float) -> list[Prediction]:
        request = question(rows)
        try:
            return answers(await self._call("ModelInfer", request, seconds), len(rows))
        except AioRpcError as error:
            code, sentence = error.code(), own_words(error)
            if sentence is None:
                if NO_ANSWER.get(code) == "cannot be reached":
                    FAILED.labels(self.name).inc()  # its last attempt; the library does not tell of those before
                raise Unavailable(self.name, NO_ANSWER.get(code, NONSENSE)) from error
            if code is StatusCode.INVALID_ARGUMENT:
                raise RequestError(422, sentence) from None
            if code is StatusCode.RESOURCE_EXHAUSTED and not is_of_replica(error):  # more bytes than it takes
                raise RequestError(413, f"inference takes no batch as large: {sentence}") from None
            raise Unavailable(self.name, f"cannot help: {sentence}") from None
        except UNREADABLE as error:
            raise Unavailable(self.name, NONSENSE) from error

    async def health(self, seconds: float) -> dict:
        """Ask for the model's metadata, which a replica gives if its model is fit. One of them is enough."""
        began, reason = asyncio.get_running_loop().time(), None
        try:
            await self._call("ModelMetadata", pb.ModelMetadataRequest(name=MODEL), seconds)
        except AioRpcError as error:
            reason = own_words(error) or f"it {NO_ANSWER.get(error.code(), NONSENSE)}"
        took = asyncio.get_running_loop().time() - began
        return {"ready": reason is None, "url": ", ".join(self.urls), "ms": round(1000 * took, 1), "reason": reason}

    async def _call(self, method: str, request, seconds: float):
        """Return the response. AioRpcError if there is none, CancelledError if the caller has gone."""
        began, metadata = asyncio.get_running_loop().time(), (("x-request-id", request_id.get()),)
        try:
            return await getattr(self._fit, method)(request, timeout=seconds, metadata=metadata)
        except AioRpcError as error:
            if NOBODY_FIT not in (error.details() or ""):
                raise
        seconds -= asyncio.get_running_loop().time() - began
        return await getattr(self._all, method)(request, timeout=seconds, metadata=metadata)  # one of them says why


def kind_of(host: str) -> str:
    """What gRPC calls the kind of a host: ipv4, ipv6, or dns for a name."""
    try:
        return f"ipv{ip_address(host).version}"
    except ValueError:
        return "dns"


def question(rows: list[list[float]]) -> pb.ModelInferRequest:
    """Ask for the digits of rows of 64 numbers.

    As bytes, since 16 rows take 17 to 33 microseconds, as numbers of protobuf 24 to 180, and NumPy reads bytes at once.
    """
    tensor = pb.ModelInferRequest.InferInputTensor(name="features", datatype="FP32", shape=[len(rows), FEATURES])
    content = b"".join([ROW.pack(*row) for row in rows])
    return pb.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[content])


def answers(response: pb.ModelInferResponse, rows: int) -> list[Prediction]:
    """Read the answers to so many rows. Raises one of UNREADABLE if they are none."""
    outputs = dict(zip([output.name for output in response.outputs], response.raw_output_contents, strict=True))
    (count, classes), *_ = [output.shape for output in response.outputs if output.name == "probabilities"]
    digits = struct.unpack(f"<{rows}q", outputs["prediction"])
    numbers = struct.unpack(f"<{count * classes}f", outputs["probabilities"])
    if not all(map(isfinite, numbers)):
        raise ValueError("probabilities must be numbers")
    probabilities = [list(numbers[start : start + classes]) for start in range(0, len(numbers), classes)]
    parameters = dict(response.parameters)
    model = {name: parameters[name].string_param for name in ("version", "format")}
    return [Prediction(digit, own, model) for digit, own in zip(digits, probabilities, strict=True)]


def own_words(error: AioRpcError) -> str | None:
    """The sentence of an error that a replica has given itself; None if it is the library that has found an error.

    A replica's reply has a request id, whatever else it has. Some codes mean the request, whoever has refused it.
    """
    told = is_of_replica(error) or error.code() in REFUSALS
    return error.details() if told and error.code() is not StatusCode.DEADLINE_EXCEEDED else None


def is_of_replica(error: AioRpcError) -> bool:
    return "x-request-id" in (error.trailing_metadata() or ())
