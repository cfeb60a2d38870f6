"""Replicas that are not healthy, gone, or not there yet, over gRPC."""

import asyncio
import threading
from time import monotonic

import pytest
from grpc import StatusCode
from grpc_calls import ROW, assert_unreachable, asynchronous, calling, running, until_ready
from prometheus_client import REGISTRY
from replicas import Replica, refuse

from clients import Unavailable


def become_unfit(replica: Replica) -> None:
    replica.stop()
    replica.fit = False
    replica.answer = replica.metadata = refuse(StatusCode.UNAVAILABLE, "manifest.json is gone")
    replica.start()


@asynchronous
async def test_a_replica_that_is_not_fit_gets_no_calls_while_another_is():
    with running("127.0.0.1", "127.0.0.1") as (fit, unfit):
        become_unfit(unfit)
        async with calling(fit.url, unfit.url) as client:
            for _ in range(10):
                await asyncio.gather(*(client.predict([ROW], 5) for _ in range(10)))
            assert (await client.health(5)).ready
    assert (len(fit.asked), len(unfit.asked)) == (100, 0)


@asynchronous
async def test_if_no_replica_is_fit_one_of_them_says_why(replica):
    become_unfit(replica)
    async with calling(replica.url) as client:
        with pytest.raises(Unavailable, match="^inference cannot help: manifest.json is gone$"):
            await client.predict([ROW], 5)
        assert (await client.health(5)).reason == "manifest.json is gone"


@asynchronous
async def test_who_is_gone_cannot_be_reached_and_is_found_again_soon(replica):
    async with calling(replica.url) as client:
        await client.predict([ROW], 5)
        replica.stop()
        failed = REGISTRY.get_sample_value("failed_attempts_total", {"service": "inference"}) or 0
        begin = monotonic()
        await assert_unreachable(client, until=lambda: monotonic() - begin > 4.5)  # waits between attempts have grown
        assert REGISTRY.get_sample_value("failed_attempts_total", {"service": "inference"}) > failed
        assert (await client.health(1)).reason == "it cannot be reached"
        replica.start()
        await until_ready(client, 3)
        assert len(await client.predict([ROW], 5)) == 1


@asynchronous
async def test_who_is_absent_at_the_start_is_found_when_it_is_there(replica):
    replica.stop()
    async with calling(replica.url) as client:
        await assert_unreachable(client, until=lambda: True)
        replica.start()
        await until_ready(client, 2)
        assert len(await client.predict([ROW], 5)) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@asynchronous
async def test_the_health_is_the_models(replica, host):
    url = f"grpc://{host}:{replica.port}"
    async with calling(url) as client:
        health = (await client.health(5)).model_dump()
        assert 0 < health.pop("ms") < 5000
        assert health == {"ready": True, "url": url, "reason": None}
        replica.metadata = refuse(StatusCode.UNAVAILABLE, "manifest.json is gone")
        health = await client.health(5)
        assert (health.ready, health.reason) == (False, "manifest.json is gone")
        over = threading.Event()
        replica.metadata = lambda request, context: over.wait(10)
        health = await client.health(0.2)
        assert (health.ready, health.reason) == (False, "it has not answered in time")
        over.set()
