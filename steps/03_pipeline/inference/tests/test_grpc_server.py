"""The door for calls over gRPC: what it answers, what it refuses, how it is left."""

import asyncio
import gzip
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

import app
import grpc_server
import model
import open_inference_pb2 as pb
from chassis import telemetry
from open_inference_pb2_grpc import GRPCInferenceServiceStub
from service import Service
from settings import Settings, read_settings

STEP = Path(app.__file__).parent
ROW = json.loads((STEP / "sample_request.json").read_text())["features"]
NAME = "inference.GRPCInferenceService"
INFER = f"/{NAME}/ModelInfer"
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING
processes = pytest.mark.skipif(os.name == "nt", reason="on Windows a process is ended, not asked to leave")


def asking(rows=(ROW,), raw: bool = True, **changes) -> pb.ModelInferRequest:
    rows = np.array(rows, dtype="<f4")
    tensor = {"name": "features", "datatype": "FP32", "shape": rows.shape}
    request = pb.ModelInferRequest(model_name="digits", inputs=[tensor])
    if raw:
        request.raw_input_contents.append(rows.tobytes())
    else:
        request.inputs[0].contents.fp32_contents.extend(rows.ravel().tolist())
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request


def answers(reply: pb.ModelInferResponse) -> dict[str, list]:
    """The outputs by name, as other clients read them."""
    types = {"INT64": "<i8", "FP32": "<f4"}
    return {
        output.name: np.frombuffer(raw, types[output.datatype]).reshape(output.shape).tolist()
        for output, raw in zip(reply.outputs, reply.raw_output_contents, strict=True)
    }


def refused(call: Callable, *args, **options) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call(*args, **{"timeout": 20, **options})
    return caught.value


def own_id(call) -> str:
    """The id that a reply of ours has, an error included."""
    return dict(call.trailing_metadata())["x-request-id"]


def measured(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Both:
    """The service with both its doors: `rest`, a client of the one, `channel` and `stub` for the other."""

    def __init__(self, settings: Settings):
        self.settings, self.port = settings, None

    def __enter__(self):
        @asynccontextmanager
        async def door(service, opened=grpc_server.door):
            async with opened(service) as self.port:
                yield

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grpc_server, "door", door)
            self.rest = TestClient(app.create_app(self.settings), raise_server_exceptions=False).__enter__()
        self.channel = self.connect()
        self.stub, self.health = GRPCInferenceServiceStub(self.channel), HealthStub(self.channel)
        return self

    def __exit__(self, *error):
        self.channel.close()
        self.rest.__exit__(*error)

    def connect(self, **options) -> grpc.Channel:
        return grpc.insecure_channel(f"127.0.0.1:{self.port}", **options)


@pytest.fixture(scope="module", params=["pickle", "onnx"])
def both(request, model_dir):
    with Both(Settings(model_dir=model_dir, model_format=request.param, grpc_port=0)) as both:
        yield both


@pytest.fixture(scope="module")
def one(model_dir):
    """The same for a single format of the model, where that makes no difference."""
    with Both(Settings(model_dir=model_dir, model_format="onnx", grpc_port=0)) as both:
        yield both


@pytest.fixture
def slow_model(monkeypatch):
    """Instead of loading a model, serve one that waits for its gate; `begun` tells that it predicts."""

    class SlowModel:
        gate, begun, rows = threading.Event(), threading.Event(), []

        @classmethod
        def predict(cls, rows):
            cls.begun.set()
            assert cls.gate.wait(10)
            cls.rows += rows.tolist()
            return np.eye(10, dtype=np.float32)[rows[:, 0].astype(int) % 10]

    served = model.Model(SlowModel.predict, np.arange(10), "slow", "pickle")
    monkeypatch.setattr(model, "load", lambda folder, format: served)
    yield SlowModel
    SlowModel.gate.set()


# What it answers


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "contents"])
@pytest.mark.parametrize("rows", [1, 3, 1024])
def test_both_kinds_of_contents_get_the_answers_of_rest(both, rows, raw):
    features = np.resize(ROW, (rows, 64)).tolist()
    features[-1] = features[-1][::-1]
    expected = both.rest.post("/inferir", json={"features": features}).json()
    reply = both.stub.ModelInfer(asking(features, raw, id="mine", model_version="1"), timeout=20)
    assert answers(reply)["prediction"] == expected["prediction"]
    assert np.array_equal(answers(reply)["probabilities"], np.float32(expected["probabilities"]))
    assert (reply.model_name, reply.model_version, reply.id) == ("digits", "1", "mine")
    assert {key: value.string_param for key, value in reply.parameters.items()} == expected["model"]
    assert [(one.name, one.datatype, one.shape) for one in reply.outputs] == [
        ("prediction", "INT64", [rows]),
        ("probabilities", "FP32", [rows, 10]),
    ]


@pytest.mark.parametrize("names", [["prediction"], ["probabilities"], ["probabilities", "prediction"]], ids=str)
def test_a_client_gets_the_outputs_that_it_asks_for(one, names):
    outputs = [{"name": name} for name in names]
    assert sorted(answers(one.stub.ModelInfer(asking(outputs=outputs), timeout=20))) == sorted(names)


def test_the_server_tells_of_itself_what_it_tells_over_rest(both):
    assert both.stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
    assert both.stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
    server = both.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=20)
    assert {"name": server.name, "version": server.version, "extensions": []} == both.rest.get("/v2").json()
    for version in ("", "1"):
        assert both.stub.ModelReady(pb.ModelReadyRequest(name="digits", version=version), timeout=20).ready
        found = both.stub.ModelMetadata(pb.ModelMetadataRequest(name="digits", version=version), timeout=20)
        tensors = {
            kind: [{"name": one.name, "shape": one.shape, "datatype": one.datatype} for one in getattr(found, kind)]
            for kind in ("inputs", "outputs")
        }
        described = {"name": found.name, "versions": found.versions, "platform": found.platform, **tensors}
        assert described == both.rest.get("/v2/models/digits").json()


@pytest.mark.parametrize("name", ["", NAME])
def test_the_health_service_says_that_we_serve(one, name):
    assert one.health.Check(HealthCheckRequest(service=name), timeout=20).status == SERVING


# What it refuses


def tensor(**changes) -> pb.ModelInferRequest:
    """A request whose tensor is changed."""
    request = asking()
    for name, value in changes.items():
        if name == "shape":
            request.inputs[0].shape[:] = value
        else:
            setattr(request.inputs[0], name, value)
    return request


def both_kinds() -> pb.ModelInferRequest:
    request = asking(raw=False)
    request.raw_input_contents.extend(asking().raw_input_contents)
    return request


def emptied(field: str) -> pb.ModelInferRequest:
    request = asking()
    request.ClearField(field)
    return request


def raw(content: bytes) -> pb.ModelInferRequest:
    request = emptied("raw_input_contents")
    request.raw_input_contents.append(content)
    return request


def number(value: float, contents: bool = False) -> pb.ModelInferRequest:
    return asking([ROW, [*ROW[1:], value]], raw=not contents)


def other_contents(**numbers) -> pb.ModelInferRequest:
    request = emptied("raw_input_contents")
    request.inputs[0].contents.MergeFrom(pb.InferTensorContents(**numbers))
    return request


SHAPE = "inputs[0].shape must be [n, 64] with at least one row, not "
ONCE = "send the numbers once: in inputs[0].contents or in raw_input_contents"
MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (emptied("inputs"), "inputs: send one tensor, with the name features"),
        (asking(inputs=[{"name": "features"}]), "inputs: send one tensor, with the name features"),
        (tensor(name="pixels"), "inputs: send one tensor, with the name features"),
        (asking(inputs=[{}] * 100_000), "inputs: send one tensor, with the name features"),
        (tensor(datatype="FP64"), "inputs[0].datatype must be FP32, not 'FP64'"),
        (tensor(datatype="BYTES"), "inputs[0].datatype must be FP32, not 'BYTES'"),
        (tensor(datatype="\x00" * 100_000), "inputs[0].datatype must be FP32, not '\\x00"),
        (tensor(shape=[]), SHAPE + "[]"),
        (tensor(shape=[64]), SHAPE + "[64]"),
        (tensor(shape=[1, 1, 64]), SHAPE + "[1, 1, 64]"),
        (tensor(shape=[1] * 100_000), SHAPE + "[1, 1, 1, 1]"),
        (tensor(shape=[1, 63]), SHAPE + "[1, 63]"),
        (tensor(shape=[0, 64]), SHAPE + "[0, 64]"),
        (tensor(shape=[-1, 64]), SHAPE + "[-1, 64]"),
        (tensor(shape=[-1, -64]), SHAPE + "[-1, -64]"),
        (tensor(shape=[MOST, MOST]), SHAPE + f"[{MOST}, {MOST}]"),
        (tensor(shape=[MOST, 64]), "a batch has at most 1,024 rows: send several batches"),
        (tensor(shape=[2**58, 64]), "a batch has at most 1,024 rows: send several batches"),  # 0 bytes in 64 bits
        (asking([ROW] * 1025), "a batch has at most 1,024 rows: send several batches"),
        (tensor(shape=[2, 64]), "raw_input_contents[0] has 256 bytes, and [2, 64] takes 512"),
        (raw(b"\0" * 255), "raw_input_contents[0] has 255 bytes, and [1, 64] takes 256"),
        (raw(b"\0" * 257), "raw_input_contents[0] has 257 bytes, and [1, 64] takes 256"),
        (raw(b""), "raw_input_contents[0] has 0 bytes, and [1, 64] takes 256"),
        (emptied("raw_input_contents"), ONCE),
        (both_kinds(), ONCE),
        (asking(raw_input_contents=[b""] * 100_000), ONCE),
        (other_contents(), "inputs[0].contents.fp32_contents has 0 numbers, which is not [1, 64]"),
        (other_contents(fp32_contents=[0] * 63), "inputs[0].contents.fp32_contents has 63 numbers"),
        (other_contents(fp32_contents=[0] * 200_000), "inputs[0].contents.fp32_contents has 200,000 numbers"),
        (other_contents(fp64_contents=[0] * 64), "inputs[0].contents.fp32_contents has 0 numbers"),
        (other_contents(bytes_contents=[b"7"] * 64), "inputs[0].contents.fp32_contents has 0 numbers"),
        (number(17), "features[1][63] must be a number from 0 to 16, not 17"),
        (number(-1), "features[1][63] must be a number from 0 to 16, not -1"),
        (number(float("nan")), "features[1][63] must be a number from 0 to 16, not nan"),
        (number(float("inf")), "features[1][63] must be a number from 0 to 16, not inf"),
        (number(float("-inf")), "features[1][63] must be a number from 0 to 16, not -inf"),
        (number(3e38), "features[1][63] must be a number from 0 to 16, not 3e+38"),
        (number(float("nan"), contents=True), "features[1][63] must be a number from 0 to 16, not nan"),
        (raw(b"\xff" * 256), "features[0][0] must be a number from 0 to 16, not nan"),
        (asking(outputs=[{"name": "digit"}]), "outputs: ask for prediction and probabilities, or for none to get both"),
        (asking(outputs=[{"name": "prediction"}] * 3), "outputs: ask for prediction and probabilities"),
        (asking(outputs=[{"name": "prediction"}] * 50_000), "outputs: ask for prediction and probabilities"),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else "",
)
def test_a_request_that_makes_no_sense_gets_invalid_argument_and_a_sentence(one, request_, sentence):
    error = refused(one.stub.ModelInfer, request_)
    assert (error.code(), error.details()[: len(sentence)]) == (StatusCode.INVALID_ARGUMENT, sentence)
    assert len(own_id(error)) == 32


def test_numbers_at_the_edges_are_taken(one):
    edges = [0.0, -0.0, 16.0, 1e-45] * 16
    assert len(answers(one.stub.ModelInfer(asking([edges]), timeout=20))["prediction"]) == 1


@pytest.mark.parametrize(
    ("name", "version"), [("", ""), ("letters", "1"), ("Digits", ""), ("d" * 100_000, ""), ("digits", "2")]
)
def test_another_model_is_not_found(one, name, version):
    asked = [
        (one.stub.ModelInfer, pb.ModelInferRequest(model_name=name, model_version=version)),
        (one.stub.ModelReady, pb.ModelReadyRequest(name=name, version=version)),
        (one.stub.ModelMetadata, pb.ModelMetadataRequest(name=name, version=version)),
    ]
    for method, request in asked:
        error = refused(method, request)
        assert error.code() is StatusCode.NOT_FOUND
        assert error.details() == "there is no such model: ask for digits, version 1"
        assert own_id(error)


@pytest.mark.parametrize("method", [f"/{NAME}/ModelTrain", f"/{NAME}/ModelStreamInfer", "/made.up/Method" + "x" * 500])
def test_a_method_that_there_is_not_is_unimplemented_and_names_no_metric(one, method):
    count = {"name": "grpc_request_duration_seconds_count", "method": "other", "code": "UNIMPLEMENTED"}
    before = measured(**count)
    error = refused(one.channel.unary_unary(method), b"x")
    assert (error.code(), error.details()) == (StatusCode.UNIMPLEMENTED, "there is no such method")
    assert own_id(error)
    assert measured(**count) == before + 1
    assert method.rpartition("/")[2] not in one.rest.get("/metrics").text


def test_whatever_bytes_come_are_answered_or_are_the_clients_fault(one):
    ask, dice = one.channel.unary_unary(INFER), random.Random(7)
    messages = [asking(raw=raw).SerializeToString() for raw in (True, False)]
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
        assert refused(ask, junk).details() == "the message is not the one that this method takes"


def test_a_client_that_speaks_no_grpc_harms_nobody_else(one):
    for said in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
    ):
        with socket.create_connection(("127.0.0.1", one.port), timeout=10) as connection:
            connection.sendall(said)
            assert one.stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live


def padding(size: int) -> bytes:
    """A field that nobody knows, of so many bytes in all (at least six), as a message may have any."""
    length = size - 6
    return b"\xa2\x06" + bytes(length >> 7 * place & 127 | 128 * (place < 3) for place in range(4)) + b"x" * length


@pytest.mark.parametrize("limit", [2_000, 1_000_000])
def test_the_limit_of_a_message_is_exact_and_can_be_set(model_dir, limit):
    settings = Settings(model_dir=model_dir, model_format="onnx", grpc_port=0, max_body_bytes=limit)
    message = asking().SerializeToString()
    with Both(settings) as small:
        ask = small.channel.unary_unary(INFER, response_deserializer=pb.ModelInferResponse.FromString)
        padded = message + padding(limit - len(message))
        assert len(padded) == limit
        assert answers(ask(padded, timeout=20))["prediction"] == [3]
        error = refused(ask, message + padding(limit + 1 - len(message)))
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert f"larger than max ({limit + 1} vs. {limit})" in error.details()
        with small.connect(compression=grpc.Compression.Gzip) as squeezing:
            bomb = message + padding(100 * limit)
            assert len(gzip.compress(bomb)) < limit
            error = refused(squeezing.unary_unary(INFER), bomb)
            assert (error.code(), error.details()) == (
                StatusCode.RESOURCE_EXHAUSTED,
                "Decompressed message larger than max",
            )


def test_an_unfit_model_leaves_the_door_open_and_says_what_is_missing(tmp_path):
    with Both(Settings(model_dir=tmp_path, grpc_port=0)) as unfit:
        reason = unfit.rest.get("/readyz").json()["error"]
        assert "run `python train.py`" in reason
        assert unfit.stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live
        assert not unfit.stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
        assert not unfit.stub.ModelReady(pb.ModelReadyRequest(name="digits"), timeout=20).ready
        for name in ("", NAME):
            assert unfit.health.Check(HealthCheckRequest(service=name), timeout=20).status == NOT_SERVING
        metadata = pb.ModelMetadataRequest(name="digits")
        for error in (refused(unfit.stub.ModelInfer, asking()), refused(unfit.stub.ModelMetadata, metadata)):
            assert (error.code(), error.details()) == (StatusCode.UNAVAILABLE, reason)
            assert own_id(error)


def test_a_full_queue_gets_resource_exhausted(slow_model):
    with Both(Settings(grpc_port=0, max_queue=2)) as full:
        first = full.stub.ModelInfer.future(asking(), timeout=20)
        assert slow_model.begun.wait(10)
        others = [full.stub.ModelInfer.future(asking(), timeout=20) for _ in range(3)]  # two wait, one finds no room
        end = time.monotonic() + 10
        while not (done := [call for call in others if call.done()]):
            assert time.monotonic() < end
            time.sleep(0.005)
        (error,) = done
        slow_model.gate.set()
        assert error.code() is StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "too many requests are waiting: try again in a second"
        assert own_id(error)
        assert [answers(call.result())["prediction"] for call in [first, *others] if call is not error] == [[0]] * 3


def test_a_bug_gets_internal_without_a_traceback_which_is_in_the_log(slow_model, caplog):
    slow_model.begun = None  # so that it fails
    with Both(Settings(grpc_port=0)) as broken:
        error = refused(broken.stub.ModelInfer, asking(), metadata=[("x-request-id", "bug-1")])
    assert (error.code(), own_id(error)) == (StatusCode.INTERNAL, "bug-1")
    assert error.details() == "the service has failed on this request; its log says how"
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.message == f"{INFER} has failed"
    assert "NoneType" in caplog.text


# What it tells of its calls


def test_a_call_keeps_its_id_in_the_reply_and_in_the_log(one, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    reply, call = one.stub.ModelInfer.with_call(asking(), timeout=20, metadata=[("x-request-id", "abc-1")])
    assert own_id(call) == "abc-1" and reply.id == ""
    error = refused(one.stub.ModelInfer, tensor(shape=[]), metadata=[("x-request-id", "abc-2,abc-3")])
    assert own_id(error) == "abc-2,abc-3"
    lines = log(capsys, 2)
    assert [line["request_id"] for line in lines] == ["abc-1", "abc-2,abc-3"]
    assert [line["code"] for line in lines] == ["OK", "INVALID_ARGUMENT"]
    assert {(line["message"], line["method"], line["client"][:5]) for line in lines} == {("request", INFER, "ipv4:")}
    assert all(0 < line["ms"] < 10_000 and line["time"].endswith("+00:00") for line in lines)


def log(capsys, lines: int) -> list[dict]:
    """So many lines of the log about calls. They are written after the reply, and several at a time."""
    found, end = [], time.monotonic() + 10
    while len(found) < lines:
        assert time.monotonic() < end, found
        time.sleep(0.02)
        written = map(json.loads, capsys.readouterr().out.splitlines())
        found += [line for line in written if "method" in line]
    return found


@pytest.mark.parametrize("sent", [None, "", 'x"} {"level": "ERROR"', "x" * 4097])
def test_a_call_without_an_id_or_with_a_bad_one_gets_a_new_one(one, sent):
    metadata = [] if sent is None else [("x-request-id", sent)]
    ids = {own_id(one.stub.ModelInfer.with_call(asking(), timeout=20, metadata=metadata)[1]) for _ in range(2)}
    assert len(ids) == 2
    assert all(len(id_) == 32 and id_.isalnum() for id_ in ids)


def test_an_id_of_many_requests_comes_back_whole(one):
    ids = ",".join(["0123456789abcdef" * 2] * 64)
    error = refused(one.stub.ModelInfer, tensor(shape=[]), metadata=[("x-request-id", ids)])
    assert own_id(error) == ids


def test_the_metrics_count_calls_by_method_and_code_and_their_batches(one):
    def counts() -> dict[str, float]:
        calls = {"name": "grpc_request_duration_seconds_count", "method": "ModelInfer"}
        codes = {code: measured(**calls, code=code) for code in ("OK", "INVALID_ARGUMENT")}
        return codes | {"batches": measured("batch_rows_count"), "rows": measured("batch_rows_sum")}

    before = counts()
    for _ in range(2):
        one.stub.ModelInfer(asking([ROW] * 3), timeout=20)
    refused(one.stub.ModelInfer, tensor(shape=[]))
    more = {name: count - before[name] for name, count in counts().items()}
    assert more == {"OK": 2, "INVALID_ARGUMENT": 1, "batches": 2, "rows": 6}
    text = one.rest.get("/metrics").text
    assert 'grpc_request_duration_seconds_bucket{code="OK",le="0.0005",method="ModelInfer"}' in text


def test_probes_are_in_the_log_only_if_they_fail(one, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    one.stub.ServerLive(pb.ServerLiveRequest(), timeout=20)
    one.stub.ServerReady(pb.ServerReadyRequest(), timeout=20)
    one.stub.ModelReady(pb.ModelReadyRequest(name="digits"), timeout=20)
    one.health.Check(HealthCheckRequest(), timeout=20)
    assert refused(one.health.Check, HealthCheckRequest(service="x")).code() is StatusCode.NOT_FOUND
    assert refused(one.stub.ModelReady, pb.ModelReadyRequest(name="x")).code() is StatusCode.NOT_FOUND
    lines = [(line["method"], line["code"]) for line in log(capsys, 2)]
    assert lines == [("/grpc.health.v1.Health/Check", "NOT_FOUND"), (f"/{NAME}/ModelReady", "NOT_FOUND")]


# How it ends


@asynccontextmanager
async def serve(**settings):
    """A service and its door on this loop: gives the service, and a function that connects to the door."""
    service = Service(Settings(grpc_port=0, **settings))
    service.start()
    try:
        async with grpc_server.door(service) as port:
            yield service, lambda: grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    finally:
        await service.stop()


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main, 30))


def test_a_call_past_its_deadline_or_cancelled_is_not_predicted(slow_model):
    cancelled = {"name": "grpc_request_duration_seconds_count", "method": "ModelInfer", "code": "CANCELLED"}

    async def main():
        gone, predicted = measured(**cancelled), measured("batch_rows_sum")
        async with serve() as (service, connect), connect() as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            staying = infer(asking([[1] * 64]), timeout=20)
            await until(slow_model.begun.is_set)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(asking([[2] * 64]), timeout=1)
            assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
            leaving = infer(asking([[3] * 64]), timeout=20)
            await until(lambda: len(service._batcher._queue) == 2)  # and the late one, which is answered
            leaving.cancel()
            await until(lambda: measured(**cancelled) == gone + 2)
            slow_model.gate.set()
            assert answers(await staying)["prediction"] == [1]
            assert answers(await infer(asking([[4] * 64]), timeout=20))["prediction"] == [4]
            assert measured("batch_rows_sum") == predicted + 2

    run(main())
    assert [row[0] for row in slow_model.rows] == [1, 4]


def test_leaving_answers_the_calls_under_way_and_takes_no_more(slow_model):
    async def main():
        async with serve() as (service, connect):
            channel, other = connect(), connect()
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            calls = [infer(asking(), timeout=20)]
            await until(slow_model.begun.is_set)
            calls += [infer(asking(), timeout=20) for _ in range(4)]
            await until(lambda: len(service._batcher._queue) == 4)
            asyncio.get_running_loop().call_later(0.5, slow_model.gate.set)
        assert slow_model.gate.is_set()  # so long has it waited
        assert [answers(await call)["prediction"] for call in calls] == [[0]] * 5
        for left in (channel, other):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await GRPCInferenceServiceStub(left).ModelInfer(asking(), timeout=20)
            assert caught.value.code() is StatusCode.UNAVAILABLE
            await left.close()

    run(main())


def test_who_watches_our_health_is_told_that_we_leave_and_holds_nobody_up(slow_model):
    async def main():
        async with serve() as (_, connect):
            channel = connect()
            watch = HealthStub(channel).Watch(HealthCheckRequest(service=NAME), timeout=25)
            assert (await watch.read()).status == SERVING
            begin = time.monotonic()
        assert time.monotonic() - begin < 5
        assert (await watch.read()).status == NOT_SERVING
        await channel.close()

    run(main())


def test_an_old_connection_is_closed_and_no_call_is_lost(slow_model, capsys):
    slow_model.gate.set()
    telemetry.log_lines.flush()
    capsys.readouterr()
    used = set()

    async def main():
        async with serve(max_connection_age_seconds=0.3) as (_, connect), connect() as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            async with asyncio.timeout(20):
                while len(used) < 3:
                    await asyncio.gather(*(infer(asking(), timeout=20) for _ in range(8)))
                    telemetry.log_lines.flush()
                    lines = map(json.loads, capsys.readouterr().out.splitlines())
                    used.update(line["client"] for line in lines if "client" in line)

    run(main())


def test_without_a_port_there_is_no_door(slow_model):
    async def main():
        async with grpc_server.door(Service(Settings())) as port:
            assert port is None

    run(main())


def test_an_address_of_ipv6_is_one_to_listen_on(slow_model):
    slow_model.gate.set()
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")

    async def main():
        service = Service(Settings(host="::1", grpc_port=0))
        async with grpc_server.door(service) as port, grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
            assert (await GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=20)).live

    run(main())


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRPC_PORT", "eighty"), ("GRPC_PORT", "99999"), ("MAX_CONNECTION_AGE_SECONDS", "0")],
)
def test_a_setting_that_makes_no_sense_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()


# As a process


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as found:
        return found.getsockname()[1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_ends_the_program_and_says_so(model_dir, workers):
    with socket.socket() as taken:
        if workers == "1" and hasattr(socket, "SO_REUSEPORT"):  # a program that would share it
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = {"MODEL_DIR": str(model_dir), "MODEL_FORMAT": "onnx", "WORKERS": workers, "PORT": "0"}
        env["GRPC_PORT"] = address.partition(":")[2]
        command = [sys.executable, "app.py"]
        done = subprocess.run(command, cwd=STEP, env={**os.environ, **env}, capture_output=True, text=True, timeout=60)
    assert done.returncode > 0
    assert f"gRPC cannot listen on {address}: stop the program that does, or change GRPC_PORT" in done.stdout


@processes
def test_sigterm_under_load_loses_no_call_of_a_client_that_repeats_what_is_safe_to_repeat(start, model_dir):
    policy = {"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.1s", "backoffMultiplier": 2}
    # CANCELLED is a call that has reached the server while it closed, and that it has not begun.
    policy["retryableStatusCodes"] = ["UNAVAILABLE", "CANCELLED"]
    config = {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "retryPolicy": policy}]}
    settings = {"model_dir": model_dir, "grpc_port": 0}
    leaving, staying = start(**settings), start(**settings)
    target = "ipv4:" + ",".join(server.said("gRPC running")[0].split()[3] for server in (leaving, staying))
    stop, answered, errors = threading.Event(), [0] * 16, []

    def ask(number: int, channel: grpc.Channel) -> None:
        infer = GRPCInferenceServiceStub(channel).ModelInfer
        try:
            while not stop.is_set():
                assert answers(infer(asking(), timeout=20))["prediction"] == [3]
                answered[number] += 1
        except Exception as error:
            errors.append(error)

    with grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(config))]) as channel:
        clients = [threading.Thread(target=ask, args=(number, channel), daemon=True) for number in range(16)]
        for client in clients:
            client.start()

        def wait_for(more: int) -> None:
            before, end = sum(answered), time.monotonic() + 30
            while sum(answered) < before + more:
                assert not errors and time.monotonic() < end, errors
                time.sleep(0.01)

        wait_for(500)
        leaving.process.send_signal(signal.SIGTERM)
        leaving.process.wait(20)
        wait_for(500)
        stop.set()
        for client in clients:
            client.join(20)
    assert not errors
    assert leaving.other == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not spread connections over workers")
def test_workers_share_the_port_and_count_together(start, model_dir):
    port = free_port()
    server = start(model_dir=model_dir, grpc_port=port, workers=2)
    assert server.said("gRPC running") == [f"gRPC running on 127.0.0.1:{port}"] * 2
    for _ in range(40):  # each on a connection of its own
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            assert answers(GRPCInferenceServiceStub(channel).ModelInfer(asking(), timeout=20))["prediction"] == [3]
    count = 'grpc_request_duration_seconds_count{code="OK",method="ModelInfer"} '
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as reply:
        assert count + "40.0" in reply.read().decode().splitlines()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(20)
    assert server.other == []
