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


async def ask(coalescer: Coalescer, items: list, name: str = "me", seconds: float = 5) -> list:
    request_id.set(name)
    return await coalescer.ask(items, seconds)


def start(coalescer: Coalescer, *arguments, **options) -> asyncio.Task:
    return asyncio.create_task(ask(coalescer, *arguments, **options))


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def test_requests_that_come_during_a_call_share_the_next_and_each_gets_its_own_answer():
    async def scenario():
        service = Service(free=False)
        coalescer = Coalescer(service.send)
        first = [start(coalescer, [number], f"id-{number}") for number in range(3)]
        await until(lambda: service.at_once == 1)
        second = [start(coalescer, [3], "id-3")]
        await until(lambda: service.at_once == CALLS)
        later = [start(coalescer, [number, 1000 + number], f"id-{number}") for number in range(4, 50)]
        await until(lambda: len(coalescer._waiting) == len(later))
        service.free.set()
        assert await asyncio.gather(*first, *second) == [[0], [10], [20], [30]]
        assert await asyncio.gather(*later) == [[10 * number, 10_000 + 10 * number] for number in range(4, 50)]
        assert len(service.calls) == 3 and service.most == CALLS
        assert service.ids == ["id-0,id-1,id-2", "id-3", ",".join(f"id-{number}" for number in range(4, 50))]

    asyncio.run(scenario())


def test_a_call_has_its_limits_and_keeps_a_request_whole():
    async def scenario():
        service = Service()
        coalescer = Coalescer(service.send, calls=1)
        await asyncio.gather(*(start(coalescer, [1] * (MAX_ITEMS - 1)) for _ in range(3)), start(coalescer, [1]))
        assert sorted(map(len, service.calls)) == [MAX_ITEMS - 1, MAX_ITEMS - 1, MAX_ITEMS]
        service.calls.clear()
        name = "x" * 63
        await asyncio.gather(*(start(coalescer, [1], name) for _ in range(MAX_IDS // 64 + 1)))
        assert sorted(map(len, service.calls)) == [1, MAX_IDS // 64]
        assert await ask(coalescer, [1] * (MAX_ITEMS + 1)) == [10] * (MAX_ITEMS + 1)  # the service may refuse it

    asyncio.run(scenario())


def test_a_failure_reaches_its_own_requests_alone():
    async def scenario():
        service = Service(error=RequestError(503, "it cannot be reached"))
        coalescer = Coalescer(service.send)
        outcomes = await asyncio.gather(*(start(coalescer, [n]) for n in range(5)), return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["it cannot be reached"] * 5
        service.error = None
        assert await ask(coalescer, [6]) == [60]

    asyncio.run(scenario())


def test_a_refusal_reaches_the_refused_request_alone():
    async def scenario():
        coalescer = Coalescer(Service().send)
        asked = [start(coalescer, [1]), start(coalescer, ["poison"]), start(coalescer, [2])]
        one, two, three = await asyncio.gather(*asked, return_exceptions=True)
        assert (one, str(two), three) == ([10], "poison", [20])

    asyncio.run(scenario())


def test_one_refused_job_among_500_costs_few_further_calls():
    async def scenario():
        service = Service(free=False)
        coalescer = Coalescer(service.send, calls=1)
        first = start(coalescer, [0])
        await until(lambda: service.at_once)
        asked = [start(coalescer, ["poison" if number == 321 else number]) for number in range(500)]
        await until(lambda: len(coalescer._waiting) == len(asked))
        service.free.set()
        await first
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes[321:322]] == ["poison"]
        assert outcomes[:321] + outcomes[322:] == [[10 * number] for number in range(500) if number != 321]
        assert len(service.calls) < 25  # two for each halving: 500, 250, 125, ...

    asyncio.run(scenario())


def test_a_request_that_has_waited_too_long_fails_and_is_not_sent():
    async def scenario():
        service = Service(free=False)
        coalescer = Coalescer(service.send, calls=1)
        first = start(coalescer, [1])
        await until(lambda: service.at_once)
        late = start(coalescer, [2], seconds=0.05)
        with pytest.raises(TimeoutError):
            await late
        service.free.set()
        assert await first == [10]
        assert await ask(coalescer, [3]) == [30]
        assert service.calls == [[1], [3]]

    asyncio.run(scenario())


def test_a_client_that_goes_away_harms_no_other():
    async def scenario():
        service = Service(free=False)
        coalescer = Coalescer(service.send)
        gone, stays = start(coalescer, [1]), start(coalescer, [2])
        await until(lambda: service.at_once)
        gone.cancel()
        service.free.set()
        assert await stays == [20]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(scenario())


def test_a_request_at_the_moment_when_a_call_ends_is_sent_too():
    async def scenario():
        service = Service(free=False)
        coalescer = Coalescer(service.send)
        first = start(coalescer, [1])
        await until(lambda: service.at_once == 1)
        second = start(coalescer, [2])
        await until(lambda: service.at_once == CALLS)
        service.free.set()
        for turn in range(20):  # in each turn of the loop around the end of both calls
            assert await asyncio.gather(first, second, start(coalescer, [turn])) == [[10], [20], [10 * turn]]
            service.free.clear()
            first = start(coalescer, [1])
            await until(lambda: service.at_once == 1)
            second = start(coalescer, [2])
            await until(lambda: service.at_once == CALLS)
            service.free.set()
            for _ in range(turn % 7):
                await asyncio.sleep(0)
        await asyncio.gather(first, second)

    asyncio.run(scenario())


def test_a_bug_in_sending_reaches_its_request():
    async def scenario():
        coalescer = Coalescer(Service(error=ZeroDivisionError()).send)
        with pytest.raises(ZeroDivisionError):
            await ask(coalescer, [1])

    asyncio.run(scenario())
