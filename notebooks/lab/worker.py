"""Serve the model behind a queue, for a comparison: python worker.py, with NATS_URL and MODEL_DIR in the environment.

A job is JSON, {"features": rows, "reply": subject}. It waits on the subject `jobs` until a worker has answered it. If a
worker dies before that, the job goes to the next. A job that is not valid ends this worker, then the next: in
production, a worker would set such a job aside, as storage does with its dead letters.
"""

import asyncio
import os
import sys
from itertools import accumulate, count
from pathlib import Path
from typing import Any

import nats
import numpy as np
import orjson
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy

sys.path.append(str(Path(__file__).resolve().parents[2] / "steps/03_pipeline/inference"))
import model  # type: ignore[import-not-found] # noqa: E402 (mypy does not know that folder)


class Jobs:
    """The client's side. A prediction waits until there is a worker."""

    def __init__(self, url: str):
        self._url = url

    async def open(self) -> None:
        self._broker, self._numbers = await nats.connect(self._url), count()
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._queue = self._broker.jetstream()
        await self._queue.add_stream(name="JOBS", subjects=["jobs"], retention=RetentionPolicy.WORK_QUEUE)
        self._inbox = self._broker.new_inbox()
        await self._broker.subscribe(f"{self._inbox}.*", cb=self._receive)

    async def _receive(self, message: Msg) -> None:
        reply = self._replies.pop(message.subject, None)  # None: it came before, or its client has stopped waiting
        if reply and not reply.done():
            reply.set_result(orjson.loads(message.data))

    async def predict(self, rows: list[list[float]], seconds: float) -> dict[str, Any]:
        subject = f"{self._inbox}.{next(self._numbers)}"
        reply = self._replies[subject] = asyncio.get_running_loop().create_future()
        try:
            await self._queue.publish("jobs", orjson.dumps({"features": rows, "reply": subject}), timeout=seconds)
            async with asyncio.timeout(seconds):
                return await reply
        finally:
            self._replies.pop(subject, None)

    async def close(self) -> None:
        await self._broker.close()


async def work() -> None:
    loaded = model.load(Path(os.environ["MODEL_DIR"]), "pickle")
    broker = await nats.connect(os.environ["NATS_URL"], max_reconnect_attempts=-1)
    queue = await broker.jetstream().pull_subscribe("jobs", durable="workers", config=ConsumerConfig(ack_wait=2))
    while True:
        try:
            jobs = await queue.fetch(64, timeout=5)
        except TimeoutError:
            continue  # no job came. nats-py raises its own TimeoutError, which is one of Python's, or Python's itself
        asked = [orjson.loads(job.data) for job in jobs]
        ends = [*accumulate(len(each["features"]) for each in asked)]
        rows = np.array([row for each in asked for row in each["features"]], dtype=np.float32)
        for job, each, output in zip(jobs, asked, np.split(loaded.predict(rows), ends[:-1]), strict=True):
            predictions, probabilities = loaded.decode(output)
            reply = {"prediction": predictions, "probabilities": probabilities}
            await broker.publish(each["reply"], orjson.dumps(reply, option=orjson.OPT_SERIALIZE_NUMPY))
            await job.ack()


if __name__ == "__main__":
    asyncio.run(work())
