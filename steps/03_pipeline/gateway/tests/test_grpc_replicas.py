"""Calls over gRPC are spread over replicas, and one that is lost costs no call."""

import asyncio
import os
import signal
from time import monotonic

import pytest
from grpc_calls import ROW, assert_unreachable, asynchronous, calling, running, until_asked, until_ready
from replicas import Process, Replica

import grpc_client
from clients import Unavailable


async def assert_spread(client, replicas: list[Replica]) -> None:
    """Each replica gets its share of 300 calls."""
    await until_asked(client, replicas)  # when all are connected, they take turns
    for replica in replicas:
        replica.asked.clear()
    for _ in range(30):
        await asyncio.gather(*(client.predict([ROW], 5) for _ in range(10)))
    calls = [len(replica.asked) for replica in replicas]
    assert sum(calls) == 300 and all(0.28 <= number / 300 <= 0.38 for number in calls), calls


@asynchronous
async def test_listed_replicas_take_turns():
    with running("127.0.0.1", "127.0.0.1", "127.0.0.1") as replicas:
        async with calling(*(replica.url for replica in replicas)) as client:
            await assert_spread(client, replicas)


@asynchronous
async def test_replicas_behind_a_name_take_turns(names, addresses):
    with running(*addresses[:3]) as replicas:
        port, names.addresses = replicas[0].port, addresses[:3]
        async with calling(f"grpc://inference.test:{port}", target=names.target(port)) as client:
            await assert_spread(client, replicas)


@asynchronous
async def test_a_new_replica_behind_a_name_is_found_when_a_connection_is_of_age(names, addresses):
    with running(*addresses[:3], **{"grpc.max_connection_age_ms": 1000}) as replicas:
        port, names.addresses = replicas[0].port, addresses[:3]
        async with calling(f"grpc://inference.test:{port}", target=names.target(port)) as client:
            await until_asked(client, replicas)
            with running(addresses[3], port=port) as new:
                names.addresses = addresses
                await until_asked(client, new, 4)


@asynchronous
async def test_a_name_that_nobody_knows_is_asked_for_every_second(names, replica):
    async with calling(f"grpc://inference.test:{replica.port}", target=names.target(replica.port)) as client:
        for _ in range(5):  # the library's waits would be longer each time
            asked, begin = names.asked, monotonic()
            await assert_unreachable(client, until=lambda asked=asked: names.asked > asked)
            assert monotonic() - begin < 2
        names.addresses = ["127.0.0.1"]
        await until_ready(client, 2)
        assert len(await client.predict([ROW], 5)) == 1


async def ask(client, seconds: float = 5) -> str:
    """Return the port of the replica that has answered."""
    (answer,) = await client.predict([ROW], seconds)
    return answer.model["version"]


async def until_all_answer(client, processes: list[Process]) -> None:
    missing = {str(process.port) for process in processes}
    async with asyncio.timeout(10):
        while missing:
            missing.discard(await ask(client))


@asynchronous
async def test_a_killed_replica_costs_no_call_and_takes_part_again_when_it_is_back(processes):
    async with calling(*(process.url for process in processes)) as client:
        await until_all_answer(client, processes)
        over = False

        async def call() -> int:
            calls = 0
            while not over:
                await ask(client)
                calls += 1
            return calls

        callers = [asyncio.create_task(call()) for _ in range(8)]
        processes[0].kill()
        processes[0] = Process(processes[0].port)
        await asyncio.to_thread(processes[0].wait)
        await until_all_answer(client, processes)
        over = True
        assert sum(await asyncio.gather(*callers)) > 100


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no signal suspends a process here")
@asynchronous
async def test_a_suspended_replica_costs_calls_no_more_than_their_deadline_and_is_found_out(processes, monkeypatch):
    monkeypatch.setitem(grpc_client.OPTIONS, "grpc.keepalive_time_ms", 1000)
    async with calling(*(process.url for process in processes)) as client:
        await until_all_answer(client, processes)
        os.kill(processes[0].pid, signal.SIGSTOP)
        outcomes: list[str] = []
        async with asyncio.timeout(10):
            while len(outcomes) < 100 or "late" in outcomes[-100:]:
                begin = monotonic()
                try:
                    outcomes.append(await ask(client, 0.3))
                except Unavailable as unavailable:
                    assert unavailable.sentence == "inference has not answered in time"
                    outcomes.append("late")
                assert monotonic() - begin < 3  # ten times the deadline: the machine may be busy
        assert "late" in outcomes
        os.kill(processes[0].pid, signal.SIGCONT)
        await until_all_answer(client, processes)
