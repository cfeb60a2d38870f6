"""Group commit: what arrives while one commit is under way is written by the next."""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from chassis.errors import RequestError

ANSWER_SECONDS, STOP_SECONDS = 5, 30


class Job(NamedTuple):
    rows: list[dict]
    done: asyncio.Future


class Writer:
    """Let requests share commits: a disk takes as long for the rows of sixteen requests as for those of one.

    `insert` commits a list of rows and waits for the disk, in a thread of its own. It raises RequestError if it can do
    nothing for any row. Any other failure may be the fault of a few: then each request is tried alone.
    """

    def __init__(self, insert: Callable[[list[dict]], None], max_queue: int = 4096):
        self._insert, self._max_queue = insert, max_queue  # in rows
        self._queue, self._waiting = SimpleQueue[Job | None](), 0  # jobs, and the number of their rows
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="write", daemon=True)
        self._thread.start()

    async def write(self, rows: list[dict]) -> None:
        """Return when the rows are on disk. RequestError with 503 if too many wait, or if they are not there in time.

        Rows that were taken are written even if nobody waits for it any longer.
        """
        if self._waiting >= self._max_queue:
            raise RequestError(503, "too many results wait for the disk: try again in a second", Retry_After="1")
        job = Job(rows, self._loop.create_future())
        self._waiting += max(len(rows), 1)
        self._queue.put(job)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await job.done
        except TimeoutError:
            raise RequestError(503, "the database does not answer: try again later", Retry_After="1") from None

    async def drain(self) -> None:
        """Take nothing more, and end the thread when all is written, unless that takes too long."""
        self._max_queue = 0
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            last = batch[-1] is None
            if jobs := batch[: len(batch) - last]:
                self._loop.call_soon_threadsafe(self._deliver, jobs, self._commit(jobs))
            if last:
                return

    def _commit(self, jobs: list[Job]) -> list[BaseException | None]:
        """Return what is wrong with each job: None if it is on disk."""
        try:
            self._insert([row for job in jobs for row in job.rows])
            return [None] * len(jobs)
        except BaseException as error:  # whatever it is, this thread has to go on
            if isinstance(error, RequestError) or len(jobs) == 1:
                return [error] * len(jobs)
            return [failure for job in jobs for failure in self._commit([job])]

    def _deliver(self, jobs: list[Job], failures: list[BaseException | None]) -> None:
        for job, failure in zip(jobs, failures, strict=True):
            self._waiting -= max(len(job.rows), 1)
            if job.done.done():
                continue  # its client has gone meanwhile
            if failure:
                job.done.set_exception(failure)
            else:
                job.done.set_result(None)
