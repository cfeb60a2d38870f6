"""What the gateway is for: a request passes through three services, with a deadline and a trace."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from time import perf_counter
from typing import Any, cast

from prometheus_client import Histogram

import transports
from chassis.errors import RequestError
from chassis.telemetry import SECONDS, log_lines, request_id
from clients import Claim, Prediction, Stored, Unavailable
from coalescing import Coalescer
from idempotency import IdempotencyKey
from request import InferenceRequest, Picture
from responses import Model, Result
from settings import Settings

STORING = 0.25  # the share of the deadline that is kept for storing; a claim may take as much of the rest

CALL_SECONDS = Histogram(
    "hop_seconds", "How long a service took, as the gateway sees it", ["service", "outcome"], buckets=SECONDS
)
calls_like = cache(CALL_SECONDS.labels)  # as in telemetry.py


class Pipeline:
    """The services together. No state is kept here: a gateway can be killed and replaced at any moment."""

    def __init__(self, settings: Settings):
        self.seconds = settings.deadline_seconds
        self.preprocess = transports.make_preprocess(settings)
        self.inference = transports.make_inference(settings)
        self.storage = transports.make_storage(settings)
        self.services = self.preprocess, self.inference, self.storage

    async def start(self) -> None:
        """Open the clients of the services; an event loop must run. They connect when they are needed."""
        for service in self.services:
            await service.open()
        self.predictor = Coalescer[list[float], Prediction](self.inference.predict, self.inference.calls)
        self.recorder = Coalescer[Result, Stored](self.storage.record)

    async def stop(self) -> None:
        await asyncio.gather(self.predictor.drain(), self.recorder.drain())
        for service in self.services:
            await service.close()

    async def infer(self, request: InferenceRequest) -> dict[str, Any]:
        """Return the response to a request. RequestError if preprocess or inference refuses it or is not available."""
        begin = perf_counter()
        timings: dict[str, float] = {}
        claim = Claim([])
        storing: dict[str, Any] = {}  # what the response says about storing
        if request.key:
            claim, storing = await self._claim(request.key, timings)
        results = claim.results or await self._predict(request, begin + (1 - STORING) * self.seconds, timings)
        if not storing:
            results, storing = await self._record(request.key, claim, results, timings)
        timings["total"] = round(1000 * (perf_counter() - begin), 3)
        return {**make_response(results, isinstance(request.content, Picture)), **storing, "timings_ms": timings}

    async def _claim(self, key: IdempotencyKey, timings: dict[str, float]) -> tuple[Claim, dict[str, Any]]:
        """Give the key to the request.

        Raises RequestError (422) if the key belongs to another request. If storage does not answer, nothing may be
        recorded: also return what the response then says about storing.
        """
        try:
            with measured_call("storage", timings):
                return await self.storage.claim(key, STORING * self.seconds), {}
        except RequestError as error:
            if error.status == 422:
                raise
            return Claim([]), {"stored": False, "storage": error.sentence}

    async def _predict(self, request: InferenceRequest, until: float, timings: dict[str, float]) -> list[Result]:
        """Ask preprocess, if there is a picture, and inference."""
        time, content, version = datetime.now(UTC), request.content, None
        several = False
        if isinstance(content, Picture):
            with measured_call("preprocess", timings):
                extraction = await self.preprocess.extract(
                    content.content, content.content_type, until - perf_counter()
                )
            rows, version = [cast(list[float], extraction.features)], extraction.version
        else:
            several = isinstance(content.features[0], list)
            rows = cast(list[list[float]], content.features if several else [content.features])
        with measured_call("inference", timings):
            predictions = await self.predictor.ask(rows, until - perf_counter())

        # The time comes first, as in a UUID of version 7: storage writes new ids side by side.
        own_id = request.key.result_id if request.key else f"{int(1000 * time.timestamp()):012x}{os.urandom(10).hex()}"
        return [
            {
                "id": f"{own_id}.{number}" if several else own_id,
                "request_id": request_id.get() or "",
                "time": time,
                "features": row,
                "prediction": prediction.prediction,
                "probabilities": prediction.probabilities,
                "model": cast(Model, prediction.model),
                "preprocess": version,
                "timings_ms": timings.copy(),
            }
            for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True))
        ]

    async def _record(
        self, key: IdempotencyKey | None, claim: Claim, results: list[Result], timings: dict[str, float]
    ) -> tuple[list[Result], dict[str, Any]]:
        """Record results, and say whether they are stored. False means that it is not known: a late commit may follow.

        With a key, return the results that are kept under it: a request with the same key may have been faster.
        """
        try:
            with measured_call("storage", timings):
                if key:
                    results, promise = await self.storage.record_once(
                        key, claim, results, STORING * self.seconds, self.recorder.ask
                    )
                else:
                    promise = (await self.recorder.ask(results, STORING * self.seconds))[0].promise
        except RequestError as error:
            if error.status < 500:
                log_warning(f"storage has refused a result: {error.sentence}")
            return results, {"stored": False, "storage": error.sentence}
        return results, {"stored": promise}


def make_response(results: list[Result], is_picture: bool) -> dict[str, Any]:
    first = results[0]
    response: dict[str, Any] = {"prediction": [result["prediction"] for result in results]}
    if first["probabilities"] is not None:
        response["probabilities"] = [result["probabilities"] for result in results]
    response["model"] = first["model"]
    if is_picture:
        response |= {"features": first["features"], "preprocess": first["preprocess"]}
    return {**response, "id": first["id"].partition(".")[0]}


def log_warning(sentence: str) -> None:
    """Write a line to the log, also if the client gets a prediction in spite of it."""
    line = {"time": datetime.now(UTC), "level": "WARNING", "request_id": request_id.get()}
    log_lines.write({**line, "message": sentence})


@contextmanager
def measured_call(service: str, timings: dict[str, float]) -> Iterator[None]:
    """Measure a call of a service, in milliseconds into `timings` and in seconds into the metrics."""
    begin, outcome = perf_counter(), "failed"
    try:
        yield
        outcome = "answered"
    except asyncio.CancelledError:
        outcome = "abandoned"
        raise
    except TimeoutError:  # while it waited for a call
        unavailable = Unavailable(service, "has not answered in time")
        log_warning(unavailable.sentence)
        raise unavailable from None
    except RequestError as error:
        if error.status < 500:
            outcome = "refused"
        else:
            log_warning(error.sentence)
        raise
    finally:
        took = perf_counter() - begin
        timings[service] = round(timings.get(service, 0) + 1000 * took, 3)  # storage may be asked twice
        calls_like(service, outcome).observe(took)
