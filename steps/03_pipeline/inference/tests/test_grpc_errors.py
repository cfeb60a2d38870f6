"""How gRPC fails: on damaged messages, large messages, without a model. test_grpc_slow.py has more."""

import gzip
import random
import re
import socket

import grpc
import pytest
from calls import INFER, NAME, NOT_SERVING, arrays, error_of, id_of, infer_request
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest

import contract
import open_inference_pb2 as pb


def test_random_bytes_are_answered_or_refused(onnx):
    ask, dice = onnx.channel.unary_unary(INFER), random.Random(7)
    messages = [infer_request(raw=raw).SerializeToString() for raw in (True, False)]
    seen = set()
    for _ in range(400):
        message = bytearray(dice.choice(messages))
        for _ in range(dice.choice([1, 1, 2, 8])):
            message[dice.randrange(len(message))] = dice.randrange(256)
        if dice.random() < 0.2:
            del message[dice.randrange(len(message)) :]
        try:
            ask(bytes(message), timeout=20)
        except grpc.RpcError as error:
            seen.add(error.code())
            assert error.code() in (StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND), (message, error)
    assert StatusCode.INVALID_ARGUMENT in seen
    for junk in (b"\xff" * 100, b"\x0a" * 1000, dice.randbytes(10_000)):
        assert error_of(ask, junk).details() == "the message is not the one that this method takes"


def test_a_client_that_does_not_speak_grpc_does_not_disturb_others(onnx):
    for content in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
    ):
        with socket.create_connection(("127.0.0.1", onnx.port), timeout=10) as connection:
            connection.sendall(content)
            assert onnx.stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live


def test_half_a_character_in_a_sentence_does_not_end_the_service(onnx):
    request = infer_request()
    request.inputs[0].datatype = "a" * 19 + "\U0001f600"  # JavaScript cuts it after twenty halves of a character
    assert error_of(onnx.stub.ModelInfer, request).code() is StatusCode.INVALID_ARGUMENT
    assert arrays(onnx.stub.ModelInfer(infer_request(), timeout=20))["prediction"] == [7]


def padding(size: int) -> bytes:
    """An unknown field of `size` bytes (at least six): every message may have some."""
    length = size - 6
    return b"\xa2\x06" + bytes(length >> 7 * place & 127 | 128 * (place < 3) for place in range(4)) + b"x" * length


@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_the_limit_of_a_message_is_exact_and_can_be_set(start, program, model_dir, limit):
    small = start(program, model_dir=model_dir, grpc_port=0, max_body_bytes=limit)
    message = infer_request().SerializeToString()
    ask = small.channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
    padded = message + padding(limit - len(message))
    assert len(padded) == limit
    assert arrays(ask(padded, timeout=20))["prediction"] == [7]
    error = error_of(ask, message + padding(limit + 1 - len(message)))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    # These two sentences are those of the gRPC libraries.
    assert re.search(rf"larger than max \({limit + 1} vs\.? {limit}\)", error.details())
    with small.connect(compression=grpc.Compression.Gzip) as compressing:
        bomb = message + padding(100 * limit)
        assert len(gzip.compress(bomb)) < limit
        error = error_of(compressing.unary_unary(INFER), bomb)
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert re.search("(?i)decompress.* larger than", error.details())


def test_without_a_model_the_service_runs_and_says_why_it_does_not_predict(start, program, tmp_path):
    unready = start(program, model_dir=tmp_path, grpc_port=0)
    reply = unready.rest.get("/readyz")
    reason = reply.json()["error"]
    assert reply.status_code == 503
    assert reason == "manifest.json cannot be read (No such file or directory): run `python train.py`, then restart"
    assert unready.stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
    assert not unready.stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    assert not unready.stub.ModelReady(pb.ModelReadyRequest(name=contract.NAME), timeout=20).ready
    for name in ("", NAME):
        assert unready.health.Check(HealthCheckRequest(service=name), timeout=20).status == NOT_SERVING
    metadata = pb.ModelMetadataRequest(name=contract.NAME)
    for error in (
        error_of(unready.stub.ModelInfer, infer_request()),
        error_of(unready.stub.ModelMetadata, metadata),
    ):
        assert (error.code(), error.details()) == (StatusCode.UNAVAILABLE, reason)
        assert id_of(error)
