"""Group commit: what arrives during a commit is written together by the next one."""

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from chassis.errors import RequestError
from tables import Row

ANSWER_SECONDS, STOP_SECONDS = 5, 30


class Job(NamedTuple):
    rows: list[Row]
    done: asyncio.Future[bool]


class Writer:
    """Lets requests share commits: a disk takes as long for the rows of sixteen requests as for those of one.

    `insert` commits a list of rows, waits for the disk, and returns whether all of them are new. It runs in a thread of
    this writer. It raises RequestError if no row can be stored now. After any other error, which a single row may have
    caused, the writer halves the requests until only those that contain such a row have failed.
    """

    def __init__(self, insert: Callable[[list[Row]], bool], max_queue: int = 4096):
        self._insert, self._max_queue = insert, max_queue  # in rows
        self._queue = SimpleQueue[Job | None]()  # None: the last one
        self._waiting = 0  # rows in the queue
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="write", daemon=True)
        self._thread.start()

    async def write(self, rows: list[Row]) -> bool:
        """Return when the rows are on disk: True if all are new, False if one of the commit was stored before.

        Raises RequestError (503) if too many rows are waiting, or if it takes too long. Rows that were accepted are
        written even if the caller no longer waits.
        """
        if self._waiting >= self._max_queue:
            raise RequestError(503, "too many results wait for the disk: try again in a second", Retry_After="1")
        job = Job(rows, self._loop.create_future())
        self._waiting += max(len(rows), 1)
        self._queue.put(job)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await job.done
        except TimeoutError:
            raise RequestError(503, "the database does not answer: try again later", Retry_After="1") from None

    async def drain(self) -> None:
        """Accept nothing more. Return when everything is written, or after STOP_SECONDS."""
        self._max_queue = 0
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, STOP_SECONDS)

    def _work(self) -> None:
        running = True
        while running:
            queued = [self._queue.get()]
            while not self._queue.empty():
                queued.append(self._queue.get())
            jobs = [job for job in queued if job]
            running = len(jobs) == len(queued)
            if jobs:
                self._loop.call_soon_threadsafe(self._deliver, jobs, self._commit(jobs))

    def _commit(self, jobs: list[Job]) -> list[BaseException | bool]:
        """Return the error of each job or, if its rows are on disk, whether all of the commit are new."""
        try:
            return [self._insert([row for job in jobs for row in job.rows])] * len(jobs)
        except BaseException as error:  # whatever happens, this thread has to go on
            if isinstance(error, RequestError) or len(jobs) == 1:
                return [error] * len(jobs)
            middle = len(jobs) // 2
            return self._commit(jobs[:middle]) + self._commit(jobs[middle:])

    def _deliver(self, jobs: list[Job], outcomes: list[BaseException | bool]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._waiting -= max(len(job.rows), 1)
            if job.done.done():
                continue  # its client is gone
            if isinstance(outcome, BaseException):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)
