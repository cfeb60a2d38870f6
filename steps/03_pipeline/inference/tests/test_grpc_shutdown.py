"""How calls and connections end; where gRPC listens."""

import asyncio
import json
import time

import grpc
import pytest
from calls import NAME, NOT_SERVING, SERVING, arrays, infer_request, measured, row_of, run, serving, until
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

import grpc_server
from chassis import telemetry
from open_inference_pb2_grpc import GRPCInferenceServiceStub
from service import Service
from settings import Settings, read_settings


def test_a_call_past_its_deadline_or_cancelled_is_not_predicted(slow_model):
    cancelled = {"name": "grpc_request_duration_seconds_count", "method": "ModelInfer", "code": "CANCELLED"}

    async def main():
        gone, predicted = measured(**cancelled), measured("batch_rows_sum")
        async with serving() as (service, connect), connect() as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            staying = infer(infer_request(row_of(1)), timeout=20)
            await until(slow_model.begun.is_set)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(infer_request(row_of(2)), timeout=1)
            assert caught.value.code() is StatusCode.DEADLINE_EXCEEDED
            cancelled_call = infer(infer_request(row_of(3)), timeout=20)
            await until(lambda: len(service._batcher._queue) == 2)  # the other one is too late, but still in the queue
            cancelled_call.cancel()
            await until(lambda: measured(**cancelled) == gone + 2)
            slow_model.gate.set()
            assert arrays(await staying)["prediction"] == [1]
            assert arrays(await infer(infer_request(row_of(4)), timeout=20))["prediction"] == [4]
            assert measured("batch_rows_sum") == predicted + 2

    run(main())
    assert [row[0] for row in slow_model.rows] == [1, 4]


def test_a_shutdown_answers_the_calls_in_flight_and_takes_no_new_ones(slow_model):
    async def main():
        async with serving() as (service, connect):
            channel, other = connect(), connect()
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            calls = [infer(infer_request(), timeout=20)]
            await until(slow_model.begun.is_set)
            calls += [infer(infer_request(), timeout=20) for _ in range(4)]
            await until(lambda: len(service._batcher._queue) == 4)
            asyncio.get_running_loop().call_later(0.5, slow_model.gate.set)
        assert slow_model.gate.is_set()  # it has waited for the model
        assert [arrays(await call)["prediction"] for call in calls] == [[0]] * 5
        for each in (channel, other):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await GRPCInferenceServiceStub(each).ModelInfer(infer_request(), timeout=20)
            assert caught.value.code() is StatusCode.UNAVAILABLE
            await each.close()

    run(main())


def test_a_client_that_watches_the_health_learns_of_the_shutdown_and_does_not_delay_it(slow_model):
    async def main():
        async with serving() as (_, connect):
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
        async with serving(max_connection_age_seconds=0.3) as (_, connect), connect() as channel:
            infer = GRPCInferenceServiceStub(channel).ModelInfer
            async with asyncio.timeout(20):
                while len(used) < 3:
                    await asyncio.gather(*(infer(infer_request(), timeout=20) for _ in range(8)))
                    telemetry.log_lines.flush()
                    lines = map(json.loads, capsys.readouterr().out.splitlines())
                    used.update(line["client"] for line in lines if "client" in line)

    run(main())


def test_without_grpc_port_nothing_listens(slow_model):
    async def main():
        async with grpc_server.serve(Service(Settings())) as port:
            assert port is None

    run(main())


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRPC_PORT", "eighty"), ("GRPC_PORT", "99999"), ("MAX_CONNECTION_AGE_SECONDS", "0")],
)
def test_an_invalid_setting_ends_the_program_with_a_sentence(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} is '{value}': input should "):
        read_settings()
