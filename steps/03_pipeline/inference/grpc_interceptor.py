"""What every gRPC call gets: an id, a status code and a sentence if it fails, a measurement, a line in the log.

It does for calls what chassis/telemetry.py and chassis/errors.py do for HTTP requests.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import perf_counter
from typing import cast

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import StatusCode
from prometheus_client import Histogram

from chassis import telemetry
from chassis.errors import RequestError

SECONDS = Histogram(
    "grpc_request_duration_seconds", "From request to response", ["method", "code"], buckets=telemetry.SECONDS
)
PROBES = ("ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "Check")  # logged only if they fail

# the gRPC code for the HTTP status of a RequestError
CODES = {
    400: StatusCode.INVALID_ARGUMENT,
    404: StatusCode.NOT_FOUND,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
}

Handler = grpc.RpcMethodHandler
# What a handler holds. grpc's own types are those of its synchronous server.
Method = Callable[[Message, grpc.aio.ServicerContext], Awaitable[Message]]
Deserializer = Callable[[bytes], Message]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method. `in_flight` holds the calls that have no response yet."""

    def __init__(self) -> None:
        self.in_flight = set[asyncio.Task]()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler, label = await continuation(details), details.method.rpartition("/")[2]
        if not handler:  # one label for all unknown methods: each label takes memory for ever
            handler, label = grpc.unary_unary_rpc_method_handler(unknown, bytes), "other"
        if handler.response_streaming:  # Watch of the health service, which ends when its client ends it
            return handler
        if task := asyncio.current_task():
            self.in_flight.add(task)
            task.add_done_callback(self.in_flight.discard)
        method, deserialize = cast(Method, handler.unary_unary), cast(Deserializer, handler.request_deserializer)

        async def answer(body: bytes, context: grpc.aio.ServicerContext) -> Message | None:
            begin, client = perf_counter(), context.peer()
            code = StatusCode.CANCELLED  # if the client does not wait for the end
            sent = [str(value).encode() for name, value in details.invocation_metadata if name == "x-request-id"]
            own_id = telemetry.id_of([(b"x-request-id", value) for value in sent], longest=4096)
            telemetry.request_id.set(own_id)
            context.set_trailing_metadata((("x-request-id", own_id),))
            try:
                response = await method(deserialize(body), context)
                code = StatusCode.OK
                return response
            except grpc.aio.AbortError:  # from the health service
                code = context.code()
                raise
            except Exception as error:
                code, sentence = explain(error, details.method)
            finally:
                took = perf_counter() - begin
                SECONDS.labels(label, code.name).observe(took)
                if code is not StatusCode.OK or label not in PROBES:
                    line = {"time": datetime.now(UTC), "level": "INFO", "request_id": own_id, "message": "request"}
                    line |= {"client": client, "method": details.method[:200], "code": code.name}
                    telemetry.log_lines.write(line | {"ms": round(1000 * took, 3)})
            await context.abort(code, sentence)

        # It deserializes the message itself, so that a damaged one is explained like any other error.
        return grpc.unary_unary_rpc_method_handler(answer, None, handler.response_serializer)


async def unknown(request: bytes, context: grpc.aio.ServicerContext) -> None:
    raise NotImplementedError


def explain(error: Exception, method: str) -> tuple[StatusCode, str]:
    """Return the status code and the sentence for an error of a method."""
    match error:
        case RequestError(headers={"Retry-After": _}):  # too many requests now; an unusable model has no Retry-After
            return StatusCode.RESOURCE_EXHAUSTED, error.sentence
        case RequestError():
            return CODES[error.status], error.sentence
        case DecodeError():
            return StatusCode.INVALID_ARGUMENT, "the message is not the one that this method takes"
        case NotImplementedError():
            return StatusCode.UNIMPLEMENTED, "there is no such method"
    logging.error("%s has failed", method, exc_info=error)
    return StatusCode.INTERNAL, "the service has failed on this request; its log says how"
