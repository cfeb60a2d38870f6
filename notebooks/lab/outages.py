"""Send steady load, kill services under it, and check afterwards that every answer was true."""

import asyncio
import json
import math
import random
import sqlite3
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import aiohttp
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from lab.launch import Service

CLIENTS = 32  # the most requests at a time


class Answer(NamedTuple):
    key: str  # of the request: its X-Request-ID and its Idempotency-Key
    at: float  # seconds after the load began
    seconds: float  # until the client had a 200, however often it had to ask
    id: str
    stored: bool | str


class Load:
    """Rows of features for POST /inferir at a steady `rate`, in requests per second, while the block runs.

    A client that gets no answer, or a 503, asks again. If the load has a `name`, each request has an Idempotency-Key
    made from it, and asks again with the same key.
    """

    def __init__(self, url: str, rows: np.ndarray, rate: float, name: str = ""):
        self._url, self._rate, self._name = url + "/inferir", rate, name
        self._bodies = [json.dumps({"features": row.tolist()}) for row in rows]
        self.answers: list[Answer] = []
        self._asked, self._over = 0, False
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self._work = self._pool.submit(lambda: asyncio.run(self._run()))
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the last answers. Raises the error that ended the load early, if there was one."""
        self._over = True
        self._pool.shutdown(wait=False)
        self._work.result(60)

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    async def _run(self) -> None:
        connector, timeout = aiohttp.TCPConnector(limit=CLIENTS), aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            await asyncio.gather(*(self._client(session) for _ in range(CLIENTS)))

    async def _client(self, session: aiohttp.ClientSession) -> None:
        while not self._over:
            number = self._asked
            self._asked += 1
            await asyncio.sleep(number / self._rate - self.elapsed())
            key = f"{self._name}-{number}"
            headers = {"Content-Type": "application/json", "X-Request-ID": key}
            headers |= {"Idempotency-Key": key} if self._name else {}
            begin, reply = time.perf_counter(), None
            while reply is None:
                reply = await ask(session, self._url, self._bodies[number % len(self._bodies)], headers)
            took = time.perf_counter() - begin
            self.answers.append(Answer(key, self.elapsed(), took, reply["id"], reply["stored"]))


async def ask(session: aiohttp.ClientSession, url: str, body: str, headers: dict[str, str]) -> dict[str, Any] | None:
    """Return the reply. If there is no reply, or a 503, return None after a pause.

    Raises RuntimeError if the status is neither 200 nor 503.
    """
    try:
        async with session.post(url, data=body, headers=headers) as reply:
            if reply.status == 200:
                return await reply.json()
            if reply.status != 503:
                raise RuntimeError(f"{reply.status} {await reply.text()}")
    except (aiohttp.ClientError, TimeoutError):
        pass
    await asyncio.sleep(0.05)
    return None


def kill(
    services: dict[str, Service], times: dict[str, int], seconds: float, seed: int, done: list[tuple[str, float]]
) -> None:
    """End services by kill -9 at random moments within `seconds`, and start each one again.

    `times` says how often, by name; `seed` decides the moments. `done` gets the name and the moment of each kill, in
    seconds after the start.
    """
    began, dice = time.monotonic(), random.Random(seed)

    def kill_one(name: str, moments: list[float]) -> None:
        for moment in moments:
            time.sleep(max(0, began + moment - time.monotonic()))
            services[name].kill()
            done.append((name, time.monotonic() - began))
            services[name].restart("/livez")

    moments = {name: sorted(dice.uniform(0, seconds) for _ in range(count)) for name, count in times.items()}
    with ThreadPoolExecutor(len(times)) as pool:
        for work in [pool.submit(kill_one, *each) for each in moments.items()]:
            work.result()


class Audit(NamedTuple):
    """What happened to the answers. `lost` and `doubled` have to be 0."""

    answered: int  # requests that got a prediction
    acknowledged: int  # of these, the client was told "stored" or "queued"
    lost: int  # of the acknowledged, not in the table
    doubled: int  # requests that are in the table more than once
    not_kept: int  # answered with `stored: false`, and not in the table


def audit(answers: list[Answer], database: str) -> Audit:
    """Compare what clients were told with the rows of the table, in a file of SQLite."""
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT request_id, id FROM results").fetchall()
    connection.close()
    stored, copies = {id for _, id in rows}, Counter(request for request, _ in rows)
    acknowledged = [answer for answer in answers if answer.stored]
    return Audit(
        answered=len(answers),
        acknowledged=len(acknowledged),
        lost=sum(answer.id not in stored for answer in acknowledged),
        doubled=sum(copies[answer.key] > 1 for answer in answers),
        not_kept=sum(not answer.stored and answer.id not in stored for answer in answers),
    )


def metric(service: Service, name: str) -> float:
    """Return the sum of a service's metric over its labels, NaN while the service does not have it."""
    with urllib.request.urlopen(service.url + "/metrics", timeout=5) as reply:
        families = text_string_to_metric_families(reply.read().decode())
        values = [sample.value for family in families for sample in family.samples if sample.name == name]
        return sum(values) if values else math.nan


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Return when the condition holds. Raises TimeoutError after `seconds`. Ignores an OSError meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition did not hold within {seconds:g} s")
        time.sleep(0.1)


def wait_until_drained(gateway: Service, seconds: float) -> None:
    """Return when no message waits in the broker.

    The gateway looks once a second, so it has to say 0 for three seconds. Raises TimeoutError after `seconds`.
    """
    deadline = empty_since = time.monotonic()
    deadline += seconds
    while time.monotonic() < empty_since + 3:
        if time.monotonic() > deadline:
            raise TimeoutError(f"messages still wait after {seconds:g} s")
        if metric(gateway, "queue_messages") != 0:  # NaN while the gateway does not know
            empty_since = time.monotonic()
        time.sleep(0.1)
