"""What the gateway is for: one question through three services, with a deadline and a trace."""

import asyncio
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from time import perf_counter
from typing import NamedTuple

from prometheus_client import Histogram

import transports
from chassis.errors import RequestError
from chassis.telemetry import SECONDS, log_lines, request_id
from clients import Unavailable
from coalescing import Coalescer
from schemas import InferirRequest
from settings import Settings

STORING = 0.25  # the share of the deadline that is kept for storage; a claim takes as much, at most, of the rest

HOPS = Histogram(
    "hop_seconds", "How long a service took, as the gateway sees it", ["service", "outcome"], buckets=SECONDS
)


@dataclass
class Picture:
    """A PNG or JPEG as it came, with its media type. Whether it is one is for preprocess to see."""

    content: bytes
    type: str


class Claim(NamedTuple):
    """A client's key and the one request that it is for; both as SHA-256, in hex."""

    key: str
    request: str

    @classmethod
    def make(cls, key: bytes, kind: str, body: bytes) -> "Claim":
        return cls(sha256(key).hexdigest(), sha256(kind.encode() + b"\0" + body).hexdigest())

    def id(self) -> str:
        """The result's id, the same whenever the request comes again: so storage keeps it once."""
        return sha256((self.key + self.request).encode()).hexdigest()[:32]


class Question(NamedTuple):
    """What comes through the door."""

    asked: InferirRequest | Picture
    claim: Claim | None = None


class Pipeline:
    """The services together. Nothing is kept here: a gateway can be killed and replaced at any moment."""

    def __init__(self, settings: Settings):
        self.seconds = settings.deadline_seconds
        self.preprocess = transports.PREPROCESS[transports.scheme(settings.preprocess_url)](settings.preprocess_url)
        self.inference = transports.INFERENCE[transports.scheme(settings.inference_url)](settings.inference_url)
        self.storage = transports.STORAGE[transports.scheme(settings.storage_url)](settings.storage_url)
        self.services = self.preprocess, self.inference, self.storage

    async def start(self) -> None:
        """Make the clients of the services, where an event loop runs. Nothing is connected until it is needed."""
        for service in self.services:
            await service.open()
        self.predictor = Coalescer(self.inference.predict, self.inference.calls)
        self.recorder = Coalescer(self.storage.record)

    async def stop(self) -> None:
        await asyncio.gather(self.predictor.drain(), self.recorder.drain())
        for service in self.services:
            await service.close()

    async def infer(self, question: Question) -> dict:
        """Return the reply to a question. RequestError if preprocess or inference refuse it or cannot be used."""
        time, begin, timings, extracted = datetime.now(UTC), perf_counter(), {}, {}
        predict_by = begin + (1 - STORING) * self.seconds
        request, claim = question
        unclaimed = claim and await self._claim(claim, timings)
        if isinstance(request, Picture):
            with hop("preprocess", timings):
                made = await self.preprocess.extract(request.content, request.type, predict_by - perf_counter())
            rows, several = [made.features], False
            extracted = {"features": made.features, "preprocess": made.version}
        else:
            several = isinstance(request.features[0], list)
            rows = request.features if several else [request.features]
        with hop("inference", timings):
            answers = await self.predictor.ask(rows, predict_by - perf_counter())

        # The time comes first, as in a UUID of version 7: storage writes new ids side by side.
        own_id = claim.id() if claim else f"{int(1000 * time.timestamp()):012x}{os.urandom(10).hex()}"
        results = [
            {
                "id": f"{own_id}.{number}" if several else own_id,
                "request_id": request_id.get(),
                "time": time,
                "features": row,
                "prediction": answer.digit,
                "probabilities": answer.probabilities,
                "model": answer.model,
                "preprocess": extracted.get("preprocess"),
                "timings_ms": timings.copy(),
            }
            for number, (row, answer) in enumerate(zip(rows, answers, strict=True))
        ]
        stored = unclaimed or await self._record(results, timings)
        timings["total"] = round(1000 * (perf_counter() - begin), 3)
        return {
            "prediction": [answer.digit for answer in answers],
            "probabilities": [answer.probabilities for answer in answers],
            "model": answers[0].model,
            **extracted,
            "id": own_id,
            **stored,
            "timings_ms": timings,
        }

    async def _claim(self, claim: Claim, timings: dict) -> dict | None:
        """Have the key kept for the request. RequestError with 422 if it is another's.

        If nobody can tell, nothing must be recorded: return what the reply then says of that.
        """
        try:
            with hop("storage", timings):
                await self.storage.claim(claim.key, claim.request, STORING * self.seconds)
        except RequestError as refused:
            if refused.status == 422:
                raise
            return {"stored": False, "storage": refused.sentence}

    async def _record(self, results: list[dict], timings: dict) -> dict:
        """Record what can be recorded, and say whether it is. False means that nobody knows: a late commit is one."""
        try:
            with hop("storage", timings):
                stored = await self.recorder.ask(results, STORING * self.seconds)
        except RequestError as refused:
            return {"stored": False, "storage": refused.sentence}
        return {"stored": stored[0]}


def tell(refused: RequestError) -> None:
    """Leave a line in the log, also where the request gets its answer all the same."""
    line = {"time": datetime.now(UTC), "level": "WARNING", "request_id": request_id.get()}
    log_lines.write({**line, "message": refused.sentence})


@contextmanager
def hop(service: str, timings: dict[str, float]):
    """Measure a call of a service, in milliseconds into `timings` and in seconds into the metrics."""
    begin, outcome = perf_counter(), "failed"
    try:
        yield
        outcome = "answered"
    except asyncio.CancelledError:
        outcome = "abandoned"
        raise
    except TimeoutError:  # in the queue for a call
        tell(unavailable := Unavailable(service, "has not answered in time"))
        raise unavailable from None
    except RequestError as refused:
        if refused.status < 500:
            outcome = "refused"
        else:
            tell(refused)
        raise
    finally:
        took = perf_counter() - begin
        timings[service] = round(timings.get(service, 0) + 1000 * took, 3)  # storage may be asked twice
        HOPS.labels(service, outcome).observe(took)
