"""Requests share calls, and each gets its own answer or its own error."""

import asyncio

import pytest

from chassis.errors import RequestError
from chassis.telemetry import request_id
from coalescing import CALLS, MAX_IDS, MAX_ITEMS, Coalescer


class Service:
    """Answers each item with its tenfold when `free` is set, and remembers the calls and their ids."""

    def __init__(self, free: bool = True, error: Exception | None = None):
        self.calls, self.ids, self.at_once, self.most, self.error = [], [], 0, 0, error
        self.free = asyncio.Event()
        if free:
            self.free.set()

    async def send(self, items: list, seconds: float) -> list:
        self.calls.append(items)
        self.ids.append(request_id.get())
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await self.free.wait()
        self.at_once -= 1
        if self.error:
            raise self.error
        if "poison" in items:
            raise RequestError(422, "poison")
        return [10 * item for item in items]


async def ask(sharing: Coalescer, items: list, name: str = "me", seconds: float = 5) -> list:
    request_id.set(name)
    return await sharing.ask(items, seconds)


def start(sharing: Coalescer, *arguments, **options) -> asyncio.Task:
    return asyncio.create_task(ask(sharing, *arguments, **options))


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def test_what_comes_during_a_call_shares_the_next_and_each_gets_its_own_answer():
    async def scenario():
        service = Service(free=False)
        sharing = Coalescer(service.send)
        first = [start(sharing, [number], f"id-{number}") for number in range(3)]
        await until(lambda: service.at_once == 1)
        second = [start(sharing, [3], "id-3")]
        await until(lambda: service.at_once == CALLS)
        later = [start(sharing, [number, 1000 + number], f"id-{number}") for number in range(4, 50)]
        await until(lambda: len(sharing._waiting) == len(later))
        service.free.set()
        assert await asyncio.gather(*first, *second) == [[0], [10], [20], [30]]
        assert await asyncio.gather(*later) == [[10 * number, 10_000 + 10 * number] for number in range(4, 50)]
        assert len(service.calls) == 3 and service.most == CALLS
        assert service.ids == ["id-0,id-1,id-2", "id-3", ",".join(f"id-{number}" for number in range(4, 50))]

    asyncio.run(scenario())


def test_a_call_has_its_limits_and_keeps_a_request_whole():
    async def scenario():
        service = Service()
        sharing = Coalescer(service.send, calls=1)
        await asyncio.gather(*(start(sharing, [1] * (MAX_ITEMS - 1)) for _ in range(3)), start(sharing, [1]))
        assert sorted(map(len, service.calls)) == [MAX_ITEMS - 1, MAX_ITEMS - 1, MAX_ITEMS]
        service.calls.clear()
        name = "x" * 63
        await asyncio.gather(*(start(sharing, [1], name) for _ in range(MAX_IDS // 64 + 1)))
        assert sorted(map(len, service.calls)) == [1, MAX_IDS // 64]
        assert await ask(sharing, [1] * (MAX_ITEMS + 1)) == [10] * (MAX_ITEMS + 1)  # the service may refuse it

    asyncio.run(scenario())


def test_a_failure_reaches_those_that_it_is_for_and_nobody_else():
    async def scenario():
        service = Service(error=RequestError(503, "it cannot be reached"))
        sharing = Coalescer(service.send)
        outcomes = await asyncio.gather(*(start(sharing, [n]) for n in range(5)), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["it cannot be reached"] * 5
        service.error = None
        assert await ask(sharing, [6]) == [60]

    asyncio.run(scenario())


def test_a_refusal_of_one_is_not_the_others():
    async def scenario():
        sharing = Coalescer(Service().send)
        asked = [start(sharing, [1]), start(sharing, ["poison"]), start(sharing, [2])]
        one, two, three = await asyncio.gather(*asked, return_exceptions=True)
        assert (one, str(two), three) == ([10], "poison", [20])

    asyncio.run(scenario())


def test_one_that_has_waited_too_long_is_told_and_is_not_sent():
    async def scenario():
        service = Service(free=False)
        sharing = Coalescer(service.send, calls=1)
        first = start(sharing, [1])
        await until(lambda: service.at_once)
        late = start(sharing, [2], seconds=0.05)
        with pytest.raises(TimeoutError):
            await late
        service.free.set()
        assert await first == [10]
        assert await ask(sharing, [3]) == [30]
        assert service.calls == [[1], [3]]

    asyncio.run(scenario())


def test_one_that_goes_away_takes_nobody_along():
    async def scenario():
        service = Service(free=False)
        sharing = Coalescer(service.send)
        gone, stays = start(sharing, [1]), start(sharing, [2])
        await until(lambda: service.at_once)
        gone.cancel()
        service.free.set()
        assert await stays == [20]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(scenario())


def test_one_that_comes_in_the_moment_when_a_call_ends_is_sent_too():
    async def scenario():
        service = Service(free=False)
        sharing = Coalescer(service.send)
        first = start(sharing, [1])
        await until(lambda: service.at_once == 1)
        second = start(sharing, [2])
        await until(lambda: service.at_once == CALLS)
        service.free.set()
        for turn in range(20):  # in each turn of the loop around the end of both calls
            assert await asyncio.gather(first, second, start(sharing, [turn])) == [[10], [20], [10 * turn]]
            service.free.clear()
            first = start(sharing, [1])
            await until(lambda: service.at_once == 1)
            second = start(sharing, [2])
            await until(lambda: service.at_once == CALLS)
            service.free.set()
            for _ in range(turn % 7):
                await asyncio.sleep(0)
        await asyncio.gather(first, second)

    asyncio.run(scenario())


def test_a_bug_in_sending_strands_nobody():
    async def scenario():
        sharing = Coalescer(Service(error=ZeroDivisionError()).send)
        with pytest.raises(ZeroDivisionError):
            await ask(sharing, [1])

    asyncio.run(scenario())
