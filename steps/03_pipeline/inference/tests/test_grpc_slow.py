"""How calls end, in each language, with a model that takes half a second: too late, too many, at a shutdown."""

import os
import signal
import time

import grpc
import pytest
from calls import INFER, NAME, NOT_SERVING, SERVING, arrays, error_of, id_of, infer_request, row_of
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest
from process import Server, deadline

from schemas import SENTENCES


@pytest.fixture
def slow(start, program, slow_model_dir) -> Server:
    return start(program, model_dir=slow_model_dir, grpc_port=0, max_queue=3)


def begin(server: Server, value: float, **options) -> grpc.Future:
    """Start a call, and return when the service has it."""
    call = server.stub.ModelInfer.future(infer_request(row_of(value)), **{"timeout": 30, **options})
    for _ in range(2):  # on the same connection, so they arrive after it
        server.health.Check(HealthCheckRequest(), timeout=20)
    return call


def test_a_call_past_its_deadline_or_cancelled_is_not_predicted(slow):
    first = begin(slow, 1)
    late, cancelled = begin(slow, 2, timeout=0.1), begin(slow, 3)
    cancelled.cancel()
    last = begin(slow, 4)
    assert late.code() is StatusCode.DEADLINE_EXCEEDED
    assert [arrays(call.result())["prediction"] for call in (first, last)] == [[1], [4]]
    assert slow.measured("batch_rows_sum") == 2
    with deadline(10) as left:
        count = {"name": "grpc_request_duration_seconds_count", "method": "ModelInfer", "code": "CANCELLED"}
        while slow.measured(**count) < 2:
            assert left()


def test_a_full_queue_gets_resource_exhausted(slow):
    calls = [begin(slow, value) for value in (1, 2, 3, 4)]  # one is predicted, three wait
    error = error_of(slow.stub.ModelInfer, infer_request(row_of(5)))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "too many requests are waiting: try again in a second"
    assert [arrays(call.result())["prediction"] for call in calls] == [[1], [2], [3], [4]]


def test_an_answer_that_is_not_finite_gets_internal_and_a_sentence(slow):
    row = row_of(1)
    row[0][1] = 0
    error = error_of(slow.stub.ModelInfer, infer_request(row))
    assert (error.code(), error.details()) == (StatusCode.INTERNAL, SENTENCES[500])
    (line,) = slow.logged_errors(1)
    assert line["message"] == f"the model cannot answer a request: {SENTENCES[500]}"


def test_a_call_on_which_the_model_fails_fails_alone_and_only_the_log_has_the_traceback(slow):
    first, bad, last = begin(slow, 1), begin(slow, 12, metadata=[("x-request-id", "bug-1")]), begin(slow, 2)
    assert [arrays(call.result())["prediction"] for call in (first, last)] == [[1], [2]]
    assert bad.code() is StatusCode.INTERNAL and id_of(bad) == "bug-1"
    assert bad.details() == "the service has failed on this request; its log says how"
    (line,) = slow.logged_errors(1)
    assert (line["message"], line["request_id"]) == (f"{INFER} has failed", "bug-1")
    assert "Gather" in line["traceback"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_sigterm_ends_it_when_the_calls_in_flight_are_answered(slow):
    watch = slow.health.Watch(HealthCheckRequest(service=NAME), timeout=30)
    assert next(watch).status == SERVING
    calls = [begin(slow, value) for value in (1, 2, 3)]
    slow.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert next(watch).status == NOT_SERVING
    assert [arrays(call.result())["prediction"] for call in calls] == [[1], [2], [3]]
    slow.process.wait(20)
    assert time.monotonic() - began < 15  # the client that watches does not delay it
    assert slow.process.returncode in (0, -signal.SIGTERM)  # uvicorn sends itself the signal again
    assert error_of(slow.stub.ModelInfer, infer_request()).code() is StatusCode.UNAVAILABLE
    assert slow.other == []


def test_an_old_connection_is_closed_and_no_call_is_lost(start, program, model_dir):
    server = start(program, model_dir=model_dir, grpc_port=0, max_connection_age_seconds=0.3)
    asked = 0
    with deadline(20) as left:
        while len({line["client"] for line in [*server.log] if "client" in line}) < 3:
            assert left()
            calls = [server.stub.ModelInfer.future(infer_request(), timeout=20) for _ in range(8)]
            assert [arrays(call.result())["prediction"] for call in calls] == [[7]] * 8
            asked += 8
    assert asked > 8
