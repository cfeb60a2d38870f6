"""Make calls of inference over gRPC, and wait for what happens."""

import asyncio
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import wraps
from time import monotonic

import pytest
from replicas import Replica

import grpc_client
from chassis.telemetry import request_id
from clients import Unavailable

ROW = [0.5] * 63 + [16]


def asynchronous(test):
    @wraps(test)
    def run(*arguments, **named):
        asyncio.run(test(*arguments, **named))

    return run


@asynccontextmanager
async def calling(*urls: str, target: str | None = None):
    request_id.set("from-outside")
    client = grpc_client.Inference(",".join(urls))
    client.target = target or client.target
    await client.open()
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def running(*hosts: str, port: int = 0, **options):
    """Replicas, those at several hosts all at the same port."""
    with ExitStack() as stack:
        found: list[Replica] = []
        for host in hosts:
            port = found[0].port if found and host != found[0].host else port
            found.append(Replica(host, port, **options))
            stack.callback(found[-1].stop)
        yield found


async def until(condition, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def until_ready(client, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not (await client.health(1)).ready:
            await asyncio.sleep(0.01)


async def until_asked(client, replicas: list[Replica], seconds: float = 10) -> None:
    """Call until each of the replicas has been called. No call may fail."""
    async with asyncio.timeout(seconds):
        while not all(replica.asked for replica in replicas):
            await client.predict([ROW], 5)


async def assert_unreachable(client, until) -> None:
    """Call until something is so, and at least once. Every call has to fail soon."""
    while True:
        begin = monotonic()
        with pytest.raises(Unavailable, match="^inference cannot be reached$"):
            await client.predict([ROW], 5)
        assert monotonic() - begin < 2
        if until():
            return
        await asyncio.sleep(0.01)
