"""The ids, log lines and metrics of calls, in each language."""

import uuid

import pytest
from calls import INFER, NAME, ROW, error_of, id_of, infer_request
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest

import contract
import open_inference_pb2 as pb


def test_a_call_keeps_its_id_in_the_response_and_in_the_log(onnx):
    own = uuid.uuid4().hex
    ids = [f"{own}-1", f"{own}-2,abc-3"]
    metadata = [[("x-request-id", each)] for each in ids]
    response, call = onnx.stub.ModelInfer.with_call(infer_request(), timeout=20, metadata=metadata[0])
    assert id_of(call) == ids[0] and response.id == ""
    error = error_of(onnx.stub.ModelInfer, infer_request(model_name="x"), metadata=metadata[1])
    assert id_of(error) == ids[1]
    lines = onnx.logged_calls(own, 2)
    assert [line["request_id"] for line in lines] == ids
    assert [line["code"] for line in lines] == ["OK", "NOT_FOUND"]
    assert {(line["message"], line["method"], line["client"][:5]) for line in lines} == {("request", INFER, "ipv4:")}
    assert all(0 < line["ms"] < 10_000 and line["time"].endswith("+00:00") for line in lines)
    keys = ["time", "level", "request_id", "message", "client", "method", "code", "ms"]
    assert [[*line] for line in lines] == [keys] * 2


@pytest.mark.parametrize("sent", [None, "", 'x"} {"level": "ERROR"', "x" * 4097])
def test_a_call_without_an_id_or_with_a_bad_one_gets_a_new_one(onnx, sent):
    metadata = [] if sent is None else [("x-request-id", sent)]
    ids = {id_of(onnx.stub.ModelInfer.with_call(infer_request(), timeout=20, metadata=metadata)[1]) for _ in range(2)}
    assert len(ids) == 2
    assert all(len(id_) == 32 and id_.isalnum() for id_ in ids)


def test_an_id_of_many_requests_comes_back_whole(onnx):
    ids = ",".join(["0123456789abcdef" * 2] * 64)
    error = error_of(onnx.stub.ModelInfer, infer_request(model_name="x"), metadata=[("x-request-id", ids)])
    assert id_of(error) == ids


def test_the_metrics_count_calls_by_method_and_code_and_their_batches(onnx):
    def counts() -> dict[str, float]:
        calls = {"name": "grpc_request_duration_seconds_count", "method": "ModelInfer"}
        codes = {code: onnx.measured(**calls, code=code) for code in ("OK", "NOT_FOUND")}
        return codes | {"batches": onnx.measured("batch_rows_count"), "rows": onnx.measured("batch_rows_sum")}

    before = counts()
    for _ in range(2):
        onnx.stub.ModelInfer(infer_request([ROW] * 3), timeout=20)
    error_of(onnx.stub.ModelInfer, infer_request(model_name="x"))
    more = {name: count - before[name] for name, count in counts().items()}
    assert more == {"OK": 2, "NOT_FOUND": 1, "batches": 2, "rows": 6}
    within = {"method": "ModelInfer", "code": "OK", "le": "+Inf"}
    assert onnx.measured("grpc_request_duration_seconds_bucket", **within) == counts()["OK"]
    assert onnx.measured("predict_seconds_count") == onnx.measured("queue_wait_seconds_count") == counts()["batches"]


def test_probes_are_in_the_log_only_if_they_fail(onnx):
    own = uuid.uuid4().hex
    options = {"timeout": 20, "metadata": [("x-request-id", own)]}
    onnx.stub.ServerLive(pb.ServerLiveRequest(), **options)
    onnx.stub.ServerReady(pb.ServerReadyRequest(), **options)
    onnx.stub.ModelReady(pb.ModelReadyRequest(name=contract.NAME), **options)
    onnx.health.Check(HealthCheckRequest(), **options)
    error = error_of(onnx.health.Check, HealthCheckRequest(service="x"), **options)
    assert (error.code(), error.details()) == (StatusCode.NOT_FOUND, "")
    assert error_of(onnx.stub.ModelReady, pb.ModelReadyRequest(name="x"), **options).code() is StatusCode.NOT_FOUND
    lines = [(line["method"], line["code"]) for line in onnx.logged_calls(own, 2)]
    assert lines == [("/grpc.health.v1.Health/Check", "NOT_FOUND"), (f"/{NAME}/ModelReady", "NOT_FOUND")]


def test_http_tells_how_the_service_is(onnx):
    own = uuid.uuid4().hex
    for path, expected in (("/livez", {"status": "alive"}), ("/readyz", {"status": "ready"})):
        reply = onnx.rest.get(path, headers={"X-Request-ID": own})
        assert (reply.status_code, reply.json(), reply.headers["x-request-id"]) == (200, expected, own)
        assert reply.headers["content-type"] == "application/json"
        assert onnx.rest.head(path).status_code == 200
    assert onnx.rest.get("/metrics").headers["content-type"].startswith("text/plain; version=")
    for method, path, status, sentence in (
        ("GET", "/x", 404, "Not Found"),
        ("POST", "/livez", 405, "Method Not Allowed"),
    ):
        reply = onnx.rest.request(method, path, headers={"X-Request-ID": own})
        assert (reply.status_code, reply.json()) == (status, {"error": f"{sentence}: {method} {path}"})
    lines = [(line["method"], line["path"], line["status"]) for line in onnx.logged_calls(own, 2)]
    assert lines == [("GET", "/x", 404), ("POST", "/livez", 405)]
    route = {"method": "GET", "route": "/livez", "status": "200"}
    assert onnx.measured("http_request_duration_seconds_count", **route) >= 1
