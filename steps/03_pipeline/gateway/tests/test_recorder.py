"""Results of many requests share calls, and each request gets its own outcome."""

import asyncio

import pytest

from errors import Refused
from recorder import CALLS, MAX_RESULTS, Recorder


class Storage:
    """Takes results when `free` is set, and remembers them call by call."""

    def __init__(self, error: Exception | None = None):
        self.calls, self.at_once, self.most, self.error = [], 0, 0, error
        self.free = asyncio.Event()

    async def send(self, results: list[dict], seconds: float) -> None:
        self.calls.append([result["id"] for result in results])
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.free.wait()
        self.at_once -= 1
        if self.error:
            raise self.error


def result(number: int) -> dict:
    return {"id": number}


def test_what_comes_during_a_call_shares_the_next():
    async def scenario():
        storage = Storage()
        recorder = Recorder(storage.send, 5)
        requests = [asyncio.create_task(recorder.record([result(number)])) for number in range(100)]
        while storage.at_once < CALLS:
            requests.append(asyncio.create_task(recorder.record([result(len(requests))])))
            await asyncio.sleep(0)
        storage.free.set()
        await asyncio.gather(*requests)
        assert sorted(sum(storage.calls, [])) == list(range(len(requests)))
        assert len(storage.calls) <= CALLS + 2
        assert storage.most == CALLS

    asyncio.run(scenario())


def test_a_call_takes_only_so_many_results_and_keeps_a_request_whole():
    async def scenario():
        storage = Storage()
        storage.free.set()
        recorder = Recorder(storage.send, 5)
        batch = [result(0)] * (MAX_RESULTS - 1)
        await asyncio.gather(*(recorder.record(batch) for _ in range(3)), recorder.record([result(1)]))
        assert sorted(map(len, storage.calls)) == [MAX_RESULTS - 1, MAX_RESULTS - 1, MAX_RESULTS]

    asyncio.run(scenario())


def test_a_refusal_reaches_those_that_it_is_for_and_nobody_else():
    async def scenario():
        storage = Storage(error=Refused(503, "storage cannot be reached"))
        storage.free.set()
        recorder = Recorder(storage.send, 5)
        outcomes = await asyncio.gather(*(recorder.record([result(n)]) for n in range(5)), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["storage cannot be reached"] * 5
        storage.error = None
        await recorder.record([result(6)])

    asyncio.run(scenario())


def test_one_that_has_waited_too_long_is_told_and_is_not_sent():
    async def scenario():
        storage = Storage()
        recorder = Recorder(storage.send, 0.05)
        first = [asyncio.create_task(recorder.record([result(number)])) for number in range(CALLS)]
        while storage.at_once < 1:
            await asyncio.sleep(0)
        late = asyncio.create_task(recorder.record([result("late")]))
        for request in (*first, late):
            with pytest.raises(TimeoutError):
                await request
        storage.free.set()
        await recorder.drain()
        await recorder.record([result("next")])
        assert storage.calls[-1] == ["next"]

    asyncio.run(scenario())


def test_one_that_goes_away_takes_nobody_along():
    async def scenario():
        storage = Storage()
        recorder = Recorder(storage.send, 5)
        gone, stays = (asyncio.create_task(recorder.record([result(name)])) for name in ("gone", "stays"))
        while not storage.at_once:
            await asyncio.sleep(0)
        gone.cancel()
        storage.free.set()
        await stays
        assert gone.cancelled() or gone.cancelling()

    asyncio.run(scenario())


def test_a_bug_in_sending_strands_nobody():
    async def scenario():
        storage = Storage(error=ZeroDivisionError())
        storage.free.set()
        recorder = Recorder(storage.send, 5)
        with pytest.raises(ZeroDivisionError):
            await recorder.record([result(1)])

    asyncio.run(scenario())
