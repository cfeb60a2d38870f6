"""Calls over gRPC that are refused, repeated, late or given up."""

import asyncio
import threading
from time import monotonic

import pytest
from grpc import StatusCode
from grpc_calls import ROW, asynchronous, calling, until
from replicas import Replica, predict, refuse

from chassis.errors import RequestError
from clients import Unavailable


@asynchronous
async def test_a_proxy_to_the_internet_is_left_alone(replica, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with calling(f"grpc://localhost:{replica.port}") as client:
        assert len(await client.predict([ROW], 5)) == 1


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (StatusCode.INVALID_ARGUMENT, 422, "the reason"),
        (StatusCode.RESOURCE_EXHAUSTED, 503, "inference cannot help: the reason"),
        (StatusCode.NOT_FOUND, 503, "inference cannot help: the reason"),
        (StatusCode.INTERNAL, 503, "inference cannot help: the reason"),
    ],
)
@asynchronous
async def test_what_a_replica_refuses_is_not_repeated(replica, code, status, says):
    replica.answer = refuse(code, "the reason")
    async with calling(replica.url) as client:
        with pytest.raises(RequestError) as refused:
            await client.predict([ROW], 5)
    assert (refused.value.status, refused.value.sentence) == (status, says)
    assert len(replica.asked) == 1


@asynchronous
async def test_a_replica_that_cannot_help_is_asked_three_times_and_says_why(replica):
    replica.answer = refuse(StatusCode.UNAVAILABLE, "manifest.json is gone")
    async with calling(replica.url) as client:
        begin = monotonic()
        with pytest.raises(Unavailable, match="^inference cannot help: manifest.json is gone$"):
            await client.predict([ROW], 5)
        assert 0.03 < monotonic() - begin < 1
    assert [metadata.get("grpc-previous-rpc-attempts") for _, metadata, _ in replica.asked] == [None, "1", "2"]


@asynchronous
async def test_a_call_that_a_leaving_replica_drops_is_repeated(replica):
    replica.own_words, replica.answer = False, refuse(StatusCode.CANCELLED, "Cancelling all calls")
    async with calling(replica.url) as client:
        with pytest.raises(Unavailable, match="^inference cannot be reached$"):
            await client.predict([ROW], 5)
    assert len(replica.asked) == 3


@asynchronous
async def test_a_batch_that_is_larger_than_a_replica_takes_gets_413_which_splits_what_was_shared():
    small = Replica(**{"grpc.max_receive_message_length": 10_000})
    try:
        async with calling(small.url) as client:
            assert len(await client.predict([ROW] * 10, 5)) == 10
            with pytest.raises(RequestError, match="^the batch is too large for inference: ") as refused:
                await client.predict([ROW] * 100, 5)
    finally:
        small.stop()
    assert refused.value.status == 413


@pytest.mark.parametrize("rows", [1, 1024])
@asynchronous
async def test_a_call_of_any_size_is_repeated(replica, rows):
    not_now = refuse(StatusCode.UNAVAILABLE, "not now")
    answers = iter([not_now, not_now, predict])
    replica.answer = lambda request, context: next(answers)(request, context)
    async with calling(replica.url) as client:
        assert len(await client.predict([ROW] * rows, 5)) == rows
    assert len(replica.asked) == 3


@asynchronous
async def test_nobody_works_for_a_caller_who_is_late_or_gone(replica):
    cut = threading.Event()

    def wait(request, context):
        context.add_callback(cut.set)
        cut.wait(10)
        return predict(request, context)

    replica.answer = wait
    async with calling(replica.url) as client:
        begin = monotonic()
        with pytest.raises(Unavailable, match="^inference has not answered in time$"):
            await client.predict([ROW], 0.3)
        assert 0.25 < monotonic() - begin < 1
        assert await asyncio.to_thread(cut.wait, 5)
        cut.clear()
        call = asyncio.create_task(client.predict([ROW], 10))
        await until(lambda: len(replica.asked) == 2)
        call.cancel()
        assert await asyncio.to_thread(cut.wait, 5)
        with pytest.raises(asyncio.CancelledError):
            await call
