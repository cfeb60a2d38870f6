"""What every call over gRPC gets: an id, a code and a sentence if it fails, a measurement, a line in the log.

It is for calls what telemetry.py and errors.py are for requests.
"""

import asyncio
import logging
from datetime import UTC, datetime
from time import perf_counter

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from prometheus_client import Histogram

from chassis import telemetry
from chassis.errors import RequestError

SECONDS = Histogram(
    "grpc_request_duration_seconds", "From request to reply", ["method", "code"], buckets=telemetry.SECONDS
)
# asked every few seconds; in the log if they fail
PROBES = ("ServerLive", "ServerReady", "ModelReady", "ModelMetadata", "Check")

# of what a method refuses by a status of HTTP
CODES = {400: StatusCode.INVALID_ARGUMENT, 404: StatusCode.NOT_FOUND, 503: StatusCode.UNAVAILABLE}


class Calls(grpc.aio.ServerInterceptor):
    """Goes around every method. `under_way` holds the calls whose replies have not gone yet."""

    def __init__(self):
        self.under_way = set[asyncio.Task]()

    async def intercept_service(self, continuation, details):
        handler, label = await continuation(details), details.method.rpartition("/")[2]
        if not handler:  # clients make up methods without end, and each label is kept for ever
            handler, label = grpc.unary_unary_rpc_method_handler(unknown, bytes), "other"
        if handler.response_streaming:  # the health service's Watch, which goes on for as long as its client likes
            return handler
        task = asyncio.current_task()
        self.under_way.add(task)
        task.add_done_callback(self.under_way.discard)

        async def answer(body: bytes, context: grpc.aio.ServicerContext):
            begin, client = perf_counter(), context.peer()
            code = StatusCode.CANCELLED  # if the client does not wait for the end, be it for its deadline
            sent = [value.encode() for name, value in details.invocation_metadata if name == "x-request-id"]
            own_id = telemetry.id_of([(b"x-request-id", value) for value in sent], longest=4096)
            telemetry.request_id.set(own_id)
            context.set_trailing_metadata([("x-request-id", own_id)])
            try:
                reply = await handler.unary_unary(handler.request_deserializer(body), context)
                code = StatusCode.OK
                return reply
            except grpc.aio.AbortError:  # the health service's
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

        # It takes the message as it came: one that cannot be read is an error to explain like any other.
        return grpc.unary_unary_rpc_method_handler(answer, None, handler.response_serializer)


async def unknown(request: bytes, context: grpc.aio.ServicerContext):
    raise NotImplementedError


def explain(error: Exception, method: str) -> tuple[StatusCode, str]:
    """The code and the sentence for what a method has raised."""
    match error:
        case RequestError(headers={"Retry-After": _}):  # too much for now; a model that is unfit stays so
            return StatusCode.RESOURCE_EXHAUSTED, error.sentence
        case RequestError():
            return CODES[error.status], error.sentence
        case DecodeError():
            return StatusCode.INVALID_ARGUMENT, "the message is not the one that this method takes"
        case NotImplementedError():
            return StatusCode.UNIMPLEMENTED, "there is no such method"
    logging.error("%s has failed", method, exc_info=error)
    return StatusCode.INTERNAL, "the service has failed on this request; its log says how"
