"""Micro-batching: what arrives while one batch is predicted becomes the next."""

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import accumulate
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import NamedTuple

import numpy as np


class Overloaded(Exception):
    """Too many rows already wait."""


class Failed(Exception):
    """`predict` fails on these rows. The cause says how."""


class Job(NamedTuple):
    rows: np.ndarray
    answer: asyncio.Future
    since: float


class Batcher:
    """Let requests share calls of `predict`, which takes nearly as long for one row as for sixty-four.

    If the batcher is idle, a request is predicted at once. Requests that come during a batch become the next batch: the
    more clients, the larger the batches, with no delay to tune. Create a batcher while an event loop runs.

    `predict` turns rows of shape (n, features) into n answers in the same order, in a thread of its own. `observe` gets
    the number of rows of each batch, how long its first job waited and how long `predict` took (in seconds).
    """

    def __init__(self, predict: Callable, observe: Callable, max_batch: int = 64, max_queue: int = 4096):
        self._predict, self._observe = predict, observe
        self._max_batch, self._max_queue = max_batch, max_queue  # in rows
        self._queue, self._waiting = deque[Job](), 0  # jobs, and the number of their rows
        self._batches = SimpleQueue[list[Job]]()
        self._loop, self._idle = asyncio.get_running_loop(), asyncio.Event()
        self._idle.set()
        self._thread = Thread(target=self._work, name="predict", daemon=True)
        self._thread.start()

    async def submit(self, rows: np.ndarray) -> np.ndarray:
        """Return the answers to rows of shape (n, features). Raises Overloaded if `max_queue` rows wait, or Failed."""
        if self._waiting >= self._max_queue:
            self._queue = deque(job for job in self._queue if not job.answer.done())  # others have gone
            self._waiting = sum(len(job.rows) for job in self._queue)
            if self._waiting >= self._max_queue:
                raise Overloaded
        job = Job(rows, self._loop.create_future(), perf_counter())
        self._queue.append(job)
        self._waiting += len(rows)
        if self._idle.is_set():
            self._idle.clear()
            self._gather(turns=1)
        return await job.answer

    async def drain(self) -> None:
        """Take no more jobs, wait until all are answered, and end the thread."""
        self._max_queue = 0
        await self._idle.wait()
        self._batches.put([])
        self._thread.join()

    def _gather(self, turns: int, before: int = 0) -> None:
        """Give the thread its next batch: after some turns of the loop, and when a turn brings no more jobs."""
        if turns or before < self._waiting < self._max_batch:
            self._loop.call_soon(self._gather, max(turns - 1, 0), self._waiting)
            return
        batch: list[Job] = []
        size = 0  # a job of more than `max_batch` rows is a batch of its own
        while self._queue and (not batch or size + len(self._queue[0].rows) <= self._max_batch):
            job = self._queue.popleft()
            self._waiting -= len(job.rows)
            if not job.answer.done():  # else its client has gone
                batch.append(job)
                size += len(job.rows)
        self._batches.put(batch) if batch else self._idle.set()

    def _work(self) -> None:
        while batch := self._batches.get():
            begin = perf_counter()
            answers = self._answer(batch)
            self._loop.call_soon_threadsafe(self._deliver, batch, answers, begin, perf_counter())

    def _answer(self, batch: list[Job]) -> list[np.ndarray | Failed]:
        """Answer each job. If a batch fails, halve it until the job that fails is alone."""
        try:
            rows = np.concatenate([job.rows for job in batch]) if len(batch) > 1 else batch[0].rows
            answers, ends = self._predict(rows), accumulate(len(job.rows) for job in batch)
            if len(answers) != len(rows):
                raise ValueError(f"predict returned {len(answers)} answers for {len(rows)} rows")
            return [answers[end - len(job.rows) : end] for job, end in zip(batch, ends, strict=True)]
        except BaseException as error:  # this thread must go on, whatever happens
            if len(batch) > 1:
                half = len(batch) // 2
                return self._answer(batch[:half]) + self._answer(batch[half:])
            failed = Failed(f"predict fails on {len(batch[0].rows)} of the rows")
            failed.__cause__ = error
            return [failed]

    def _deliver(self, batch: list[Job], answers: list, begin: float, end: float) -> None:
        # Wait three turns of the loop: in the first the responses are written, in the second the clients' next requests
        # arrive, in the third these are in the queue. Without the wait, every other client would just miss each batch.
        self._gather(turns=3)
        for job, answer in zip(batch, answers, strict=True):
            if job.answer.done():
                continue  # its client has gone meanwhile
            if isinstance(answer, Failed):
                job.answer.set_exception(answer)
            else:
                job.answer.set_result(answer)
        self._observe(sum(len(job.rows) for job in batch), begin - batch[0].since, end - begin)
