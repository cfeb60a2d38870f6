"""Coalesce calls: requests that arrive while calls are under way travel together in the next call."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

from chassis.errors import RequestError
from chassis.telemetry import request_id

CALLS = 2  # at a time: one may travel while the service works on the other
MAX_ITEMS, MAX_IDS = 1024, 4096  # in a call: services take no more rows, and no more characters in X-Request-ID

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Job(NamedTuple, Generic[Item, Answer]):
    """The items of one request, and the answers that it waits for."""

    items: list[Item]
    answers: asyncio.Future[list[Answer]]
    until: float  # by the loop's clock
    request_id: str


class Coalescer(Generic[Item, Answer]):
    """Call `send(items, seconds)`, which returns an answer for each item, for many requests at once.

    A call between two processes costs far more than another row in it, and so does a commit or a prediction at the
    other end. A request that finds no call under way is sent at once. Under load, calls grow; their number does not.
    """

    def __init__(self, send: Callable[[list[Item], float], Awaitable[list[Answer]]], calls: int = CALLS):
        self._send, self._max_calls = send, calls  # at a time
        self._waiting: list[Job[Item, Answer]] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def ask(self, items: list[Item], seconds: float) -> list[Answer]:
        """Return an answer for each item. Raises what `send` raises; TimeoutError after `seconds`."""
        loop = asyncio.get_running_loop()
        answers: asyncio.Future[list[Answer]] = loop.create_future()
        self._waiting.append(Job(items, answers, loop.time() + seconds, request_id.get() or ""))
        if len(self._calls) < self._max_calls:
            task = asyncio.create_task(self._work())
            self._calls.add(task)
        async with asyncio.timeout(seconds):
            return await answers

    async def drain(self) -> None:
        await asyncio.gather(*self._calls)

    async def _work(self) -> None:
        try:
            await asyncio.sleep(0)  # let in the requests that arrive at the same moment
            while jobs := self._take():
                await self._call(jobs)
        finally:  # in the same turn of the loop: ask() must not count on a task that takes no more jobs
            if task := asyncio.current_task():
                self._calls.discard(task)

    def _take(self) -> list[Job[Item, Answer]]:
        """Take the jobs of the next call from the queue. Drop those whose request has gone."""
        waiting = [job for job in self._waiting if not job.answers.done()]
        items = accumulate(len(job.items) for job in waiting)
        ids = accumulate(len(job.request_id) + 1 for job in waiting)
        count = max(sum(size <= MAX_ITEMS and length <= MAX_IDS for size, length in zip(items, ids, strict=True)), 1)
        self._waiting = waiting[count:]
        return waiting[:count]

    async def _call(self, jobs: list[Job[Item, Answer]]) -> None:
        """Send jobs together. If the service refuses them, halve: only the job at fault is refused in the end."""
        try:
            request_id.set(",".join(dict.fromkeys(job.request_id for job in jobs)))  # for the logs at the other end
            items = [item for job in jobs for item in job.items]
            answers = await self._send(items, max(job.until for job in jobs) - asyncio.get_running_loop().time())
        except Exception as error:
            if isinstance(error, RequestError) and error.status < 500 and len(jobs) > 1:
                half = len(jobs) // 2
                await self._call(jobs[:half])
                return await self._call(jobs[half:])
            for job in jobs:
                if not job.answers.done():
                    job.answers.set_exception(error)
            return
        for job, end in zip(jobs, accumulate(len(job.items) for job in jobs), strict=True):
            if not job.answers.done():
                job.answers.set_result(answers[end - len(job.items) : end])
