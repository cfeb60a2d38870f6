"""Replicas of inference that speak gRPC, in this process or in their own, and a name server that knows them."""

import multiprocessing
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

import open_inference_pb2 as pb
from open_inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

PROBABILITIES = [0.984375, 0.0, 0.0, 0.0078125, 0.0, 0.0, 0.0078125, 0.0, 0.0, 0.0]  # exact in 32 bits
MODEL = {"version": "b5e7a46e61b8", "format": "pickle"}


def predict(request, context, version: str = MODEL["version"]) -> pb.ModelInferResponse:
    rows, outputs = request.inputs[0].shape[0], pb.ModelInferResponse.InferOutputTensor
    return pb.ModelInferResponse(
        model_name="digits",
        model_version="1",
        parameters={
            "version": pb.InferParameter(string_param=version),
            "format": pb.InferParameter(string_param=MODEL["format"]),
        },
        outputs=[
            outputs(name="prediction", datatype="INT64", shape=[rows]),
            outputs(name="probabilities", datatype="FP32", shape=[rows, 10]),
        ],
        raw_output_contents=[struct.pack(f"<{rows}q", *[0] * rows), struct.pack("<10f", *PROBABILITIES) * rows],
    )


def refuse(code: grpc.StatusCode, sentence: str):
    """An answer that makes no sense."""

    def answer(request, context):
        context.abort(code, sentence)

    return answer


class Unfit(grpc.GenericRpcHandler):
    """The health service of a replica that is not fit: https://github.com/grpc/grpc/blob/master/doc/health-checking.md"""

    def service(self, call):
        if call.method == "/grpc.health.v1.Health/Watch":
            return grpc.unary_stream_rpc_method_handler(self._watch)

    def _watch(self, request, context):
        over = threading.Event()
        context.add_callback(over.set)
        yield b"\x08\x02"  # HealthCheckResponse(status=NOT_SERVING)
        over.wait()


class Replica(GRPCInferenceServiceServicer):
    """A replica that answers what `answer` makes of a call, and remembers the calls."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **options):
        self.answer, self.metadata = predict, lambda request, context: pb.ModelMetadataResponse(name="digits")
        self.host, self.port, self.own_words = host, port, True
        self.fit = True
        self.asked: list[tuple[pb.ModelInferRequest, dict, float]] = []  # with metadata and the seconds that are left
        pings = {"grpc.keepalive_permit_without_calls": 1, "grpc.http2.min_ping_interval_without_data_ms": 10}
        self._options = {"grpc.so_reuseport": 0, **pings, **options}
        self.start()

    def start(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(16), options=list(self._options.items()))
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        if not self.fit:
            self._server.add_generic_rpc_handlers([Unfit()])
        self.port = self._server.add_insecure_port(f"{self.host}:{self.port}")  # RuntimeError if it is taken
        self._server.start()
        self.url = f"grpc://{self.host}:{self.port}"

    def stop(self) -> None:
        self._server.stop(None).wait(5)

    def ModelInfer(self, request, context):
        self.asked.append((request, dict(context.invocation_metadata()), context.time_remaining()))
        return self._speak(self.answer, request, context)

    def ModelMetadata(self, request, context):
        return self._speak(self.metadata, request, context)

    def _speak(self, answer, request, context):
        if self.own_words:  # and not those of a library
            context.set_trailing_metadata((("x-request-id", dict(context.invocation_metadata())["x-request-id"]),))
        return answer(request, context)


def serve(pipe, port: int) -> None:
    """Be a replica whose model has the port as its version, so that an answer shows which replica gave it."""
    replica = Replica(port=port)
    replica.answer = lambda request, context: predict(request, context, str(replica.port))
    pipe.send(replica.port)
    pipe.poll(None)  # until the test is gone and cannot kill it any more


class Process:
    """A replica in a process of its own, which can be killed and suspended."""

    def __init__(self, port: int = 0):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=[theirs, port], daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def wait(self) -> None:
        """Return once it listens."""
        if not self._pipe.poll(30):
            raise TimeoutError("the replica has not started")
        self.port = self._pipe.recv()
        self.url = f"grpc://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self._process.kill()
        self._process.join(10)


class Names:
    """A name server that knows `addresses` for every name, or no name at all if there are none."""

    def __init__(self):
        self.addresses: list[str] = []
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def target(self, port: int) -> str:
        """What gRPC calls the name at this server."""
        return f"dns://127.0.0.1:{self.port}/inference.test:{port}"

    def _work(self) -> None:
        while query := self._socket.recvfrom(512):
            packet, client = query
            if not packet:
                return
            end = packet.index(b"\0", 12) + 5  # of the question: the name, a type, a class
            for_ipv4 = packet[end - 4 : end - 2] == b"\0\1"  # type A
            self.asked += for_ipv4
            addresses = self.addresses if for_ipv4 else []
            flags, counts = 0x8180 if self.addresses else 0x8183, (1, len(addresses), 0, 0)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4"  # the same name, an address, to be forgotten at once
            answers = b"".join(record + socket.inet_aton(address) for address in addresses)
            reply = packet[:2] + struct.pack(">5H", flags, *counts) + packet[12:end] + answers
            self._socket.sendto(reply, client)

    def stop(self) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()
