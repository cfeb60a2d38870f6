"""The ids, log lines and metrics of calls."""

import pytest
from calls import INFER, NAME, ROW, error_of, id_of, infer_request, logged_calls, measured
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest

import contract
import open_inference_pb2 as pb
from chassis import telemetry


def test_a_call_keeps_its_id_in_the_response_and_in_the_log(onnx, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    response, call = onnx.stub.ModelInfer.with_call(infer_request(), timeout=20, metadata=[("x-request-id", "abc-1")])
    assert id_of(call) == "abc-1" and response.id == ""
    error = error_of(onnx.stub.ModelInfer, infer_request(model_name="x"), metadata=[("x-request-id", "abc-2,abc-3")])
    assert id_of(error) == "abc-2,abc-3"
    lines = logged_calls(capsys, 2)
    assert [line["request_id"] for line in lines] == ["abc-1", "abc-2,abc-3"]
    assert [line["code"] for line in lines] == ["OK", "NOT_FOUND"]
    assert {(line["message"], line["method"], line["client"][:5]) for line in lines} == {("request", INFER, "ipv4:")}
    assert all(0 < line["ms"] < 10_000 and line["time"].endswith("+00:00") for line in lines)


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
        codes = {code: measured(**calls, code=code) for code in ("OK", "NOT_FOUND")}
        return codes | {"batches": measured("batch_rows_count"), "rows": measured("batch_rows_sum")}

    before = counts()
    for _ in range(2):
        onnx.stub.ModelInfer(infer_request([ROW] * 3), timeout=20)
    error_of(onnx.stub.ModelInfer, infer_request(model_name="x"))
    more = {name: count - before[name] for name, count in counts().items()}
    assert more == {"OK": 2, "NOT_FOUND": 1, "batches": 2, "rows": 6}
    text = onnx.rest.get("/metrics").text
    assert 'grpc_request_duration_seconds_bucket{code="OK",le="0.0005",method="ModelInfer"}' in text


def test_probes_are_in_the_log_only_if_they_fail(onnx, capsys):
    telemetry.log_lines.flush()
    capsys.readouterr()
    onnx.stub.ServerLive(pb.ServerLiveRequest(), timeout=20)
    onnx.stub.ServerReady(pb.ServerReadyRequest(), timeout=20)
    onnx.stub.ModelReady(pb.ModelReadyRequest(name=contract.NAME), timeout=20)
    onnx.health.Check(HealthCheckRequest(), timeout=20)
    assert error_of(onnx.health.Check, HealthCheckRequest(service="x")).code() is StatusCode.NOT_FOUND
    assert error_of(onnx.stub.ModelReady, pb.ModelReadyRequest(name="x")).code() is StatusCode.NOT_FOUND
    lines = [(line["method"], line["code"]) for line in logged_calls(capsys, 2)]
    assert lines == [("/grpc.health.v1.Health/Check", "NOT_FOUND"), (f"/{NAME}/ModelReady", "NOT_FOUND")]
