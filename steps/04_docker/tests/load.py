"""Send requests without a pause, then check that each acknowledged result is stored once."""

import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import requests

from stack import PIPELINE, Stack, wait_until

ROW = [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0, 0, 4, 12, 0, 0, 8, 8, 0]
ROW += [0, 5, 8, 0, 0, 9, 8, 0, 0, 4, 11, 0, 1, 12, 7, 0, 0, 2, 14, 5, 10, 12, 0, 0, 0, 0, 6, 13, 10, 0, 0, 0]
DRAWING = {"data": (PIPELINE / "sample_drawing.png").read_bytes(), "headers": {"Content-Type": "image/png"}}


class Answer(NamedTuple):
    key: str  # the X-Request-ID
    at: float  # seconds after the load began
    seconds: float
    status: int  # 0: no answer
    body: dict
    rows: int = 1  # that were asked about


class Load:
    """While the block runs, `clients` send without a pause. Each request has an X-Request-ID of its own.

    They send a row of features, or `sent` (arguments of requests.post). `rate` limits the requests per second of all
    clients together. No request is repeated: `answers` holds the answer to each.
    """

    def __init__(self, stack: Stack, clients: int = 8, rate: float | None = None, **sent):
        self._stack, self._clients, self._rate = stack, clients, rate
        self._sent = sent or {"json": {"features": ROW}}
        features = self._sent.get("json", {}).get("features", ROW)
        self._rows = len(features) if isinstance(features[0], list) else 1
        self.name = uuid.uuid4().hex[:8]
        self.answers: list[Answer] = []
        self._over, self._turn, self._asked = threading.Event(), threading.Lock(), 0

    def __enter__(self):
        self.began = time.monotonic()
        self._pool = ThreadPoolExecutor(self._clients)
        self._work = [self._pool.submit(self._client) for _ in range(self._clients)]
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._pool.shutdown()
        for work in self._work:
            work.result()

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def wait_for(self, answers: int, seconds: float = 60) -> None:
        """Return after this many more answers."""
        enough = len(self.answers) + answers
        wait_until(lambda: len(self.answers) >= enough, seconds)

    def _client(self) -> None:
        url, session = self._stack.url + "/inferir", requests.Session()
        session.trust_env = False  # use no proxy
        while not self._over.is_set():
            with self._turn:
                number, self._asked = self._asked, self._asked + 1
            if self._rate and self._over.wait(max(0, number / self._rate - self.elapsed())):
                return
            key, begin = f"{self.name}-{number}", time.monotonic()
            headers = {**self._sent.get("headers", {}), "X-Request-ID": key}
            try:
                reply = session.post(url, timeout=10, **{**self._sent, "headers": headers})
                status, body = reply.status_code, reply.json()
            except (requests.RequestException, ValueError):
                status, body = 0, {}
            took = time.monotonic() - begin
            self.answers.append(Answer(key, self.elapsed(), took, status, body, self._rows))
            if status != 200:
                self._over.wait(0.05)


class Audit(NamedTuple):
    """Counts of requests. `lost` and `doubled` must be 0."""

    answered: int  # got a prediction
    acknowledged: int  # got a prediction, and the reply says "stored" or "queued"
    lost: int  # acknowledged, but rows are missing in the table
    doubled: int  # the table has more rows than the request
    failed: int  # got no prediction


def audit(stack: Stack, answers: list[Answer], seconds: float = 60) -> Audit:
    """Wait until the broker's queue is empty, then compare the answers with the table."""
    wait_until_drained(stack, seconds)
    counts = stack.sql("SELECT request_id, count(*) FROM results GROUP BY request_id")
    stored, rows = {key: int(count) for key, count in counts}, {answer.key: answer.rows for answer in answers}
    answered = [answer for answer in answers if answer.status == 200]
    acknowledged = [answer for answer in answered if answer.body["stored"]]
    return Audit(
        answered=len(answered),
        acknowledged=len(acknowledged),
        lost=sum(stored.get(answer.key, 0) < answer.rows for answer in acknowledged),
        doubled=sum(stored.get(key, 0) > count for key, count in rows.items()),
        failed=len(answers) - len(answered),
    )


def wait_until_drained(stack: Stack, seconds: float = 60) -> None:
    """Return when the broker's queue is empty: storage acknowledges a message after its commit."""
    wait_until(lambda: waiting(stack) == 0, seconds)


def waiting(stack: Stack) -> int | None:
    """The number of messages in the broker's queue; None while the broker does not answer."""
    try:
        told = stack.run_in("broker", "wget", "-q", "-O", "-", "http://127.0.0.1:8222/jsz?streams=true")
    except RuntimeError:
        return None
    streams = [stream for account in json.loads(told)["account_details"] for stream in account["stream_detail"]]
    return sum(stream["state"]["messages"] for stream in streams if stream["name"] == "RESULTS")
