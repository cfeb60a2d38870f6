"""Requests share calls of a service: what comes while calls are under way goes together with the next."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import NamedTuple

from chassis.errors import RequestError
from chassis.telemetry import request_id

CALLS = 2  # at a time: one may travel while the service works on the other
MAX_ITEMS, MAX_IDS = 1024, 4096  # in a call: services take no more rows, and no more characters in X-Request-ID


class Job(NamedTuple):
    items: list
    answers: asyncio.Future
    until: float  # by the loop's clock
    request_id: str


class Coalescer:
    """Call `send(items, seconds)`, which returns an answer for each item, on behalf of many requests at once.

    A call between two processes costs far more than another row in it, and so does a commit or a prediction at the
    other end. One that finds nothing under way is sent at once; under load, calls grow instead of their number.
    """

    def __init__(self, send: Callable[[list, float], Awaitable[list]], calls: int = CALLS):
        self._send, self._most = send, calls  # calls at a time
        self._waiting: list[Job] = []
        self._calls: set[asyncio.Task] = set()

    async def ask(self, items: list, seconds: float) -> list:
        """Return an answer for each item. Raises what `send` raises; TimeoutError after `seconds`."""
        loop = asyncio.get_running_loop()
        job = Job(items, loop.create_future(), loop.time() + seconds, request_id.get())
        self._waiting.append(job)
        if len(self._calls) < self._most:
            self._calls.add(asyncio.create_task(self._work()))
        async with asyncio.timeout(seconds):
            return await job.answers

    async def drain(self) -> None:
        await asyncio.gather(*self._calls)

    async def _work(self) -> None:
        try:
            await asyncio.sleep(0)  # let in those that came in the same moment
            while jobs := self._take():
                await self._call(jobs)
        finally:  # in the same turn: nobody may count on a task that looks for work no more
            self._calls.discard(asyncio.current_task())

    def _take(self) -> list[Job]:
        """The jobs of the next call, without those that nobody waits for any more."""
        waiting = [job for job in self._waiting if not job.answers.done()]
        items = accumulate(len(job.items) for job in waiting)
        ids = accumulate(len(job.request_id) + 1 for job in waiting)
        count = max(sum(size <= MAX_ITEMS and length <= MAX_IDS for size, length in zip(items, ids, strict=True)), 1)
        self._waiting = waiting[count:]
        return waiting[:count]

    async def _call(self, jobs: list[Job]) -> None:
        try:
            request_id.set(",".join(dict.fromkeys(job.request_id for job in jobs)))  # for the logs at the other end
            items = [item for job in jobs for item in job.items]
            answers = await self._send(items, max(job.until for job in jobs) - asyncio.get_running_loop().time())
        except Exception as error:
            if isinstance(error, RequestError) and error.status < 500 and len(jobs) > 1:
                for job in jobs:  # it may be the fault of one
                    await self._call([job])
                return
            for job in jobs:
                if not job.answers.done():
                    job.answers.set_exception(error)
            return
        for job, end in zip(jobs, accumulate(len(job.items) for job in jobs), strict=True):
            if not job.answers.done():
                job.answers.set_result(answers[end - len(job.items) : end])
