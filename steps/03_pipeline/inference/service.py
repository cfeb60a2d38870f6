"""What the routes share: the model, loaded once, and the batcher in front of it."""

import asyncio
import contextlib
import logging

import numpy as np
from fastapi import Request
from prometheus_client import Histogram

import model
from batcher import Batcher, Overloaded
from chassis.errors import RequestError
from chassis.telemetry import SECONDS
from settings import Settings

STOP_SECONDS = 30

BATCH_ROWS = Histogram("batch_rows", "Rows in a call of predict", buckets=[1, 2, 4, 8, 16, 32, 64, 256, 1024])
QUEUE_WAIT = Histogram("queue_wait_seconds", "How long the first request of a batch waited", buckets=SECONDS)
PREDICT = Histogram("predict_seconds", "How long a call of predict took", buckets=SECONDS)


def observe_batch(rows: int, waited: float, took: float) -> None:
    BATCH_ROWS.observe(rows)
    QUEUE_WAIT.observe(waited)
    PREDICT.observe(took)


class Service:
    """A model that may be unfit to serve. Between start() and stop() it predicts, or says why it does not."""

    def __init__(self, settings: Settings):
        self.settings, self.model, self.problem = settings, None, "the model is not loaded yet"

    def start(self) -> None:
        """Load the model. One that cannot be used does not stop the service."""
        folder = self.settings.model_dir
        try:
            self.model = model.load(folder, self.settings.model_format)
        except model.ModelError as error:
            self.problem = str(error)
            logging.error("not ready, model folder %s: %s (cause: %r)", folder, error, error.__cause__)
        else:
            batches = self.settings.max_batch, self.settings.max_queue
            self._batcher = Batcher(self.model.predict, observe_batch, *batches)

    async def stop(self) -> None:
        """Answer what waits, unless that takes too long."""
        if self.model:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._batcher.drain(), STOP_SECONDS)

    def require_model(self) -> model.Model:
        """Return the model. RequestError with 503 and the reason if there is none to serve."""
        if not self.model:
            raise RequestError(503, self.problem)
        return self.model

    def require_ready(self, request: Request) -> None:
        """RequestError with 503 and the reason if the service should get no more requests."""
        self.require_model()
        if request.state.leaving:  # server.py sets it
            raise RequestError(503, "the service is shutting down")

    async def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return digits, int64 of shape (n,), and probabilities, float32 of shape (n, 10).

        `rows` are float32 of shape (n, 64). RequestError with 503 if the model is unfit or too many rows wait already.
        """
        classes = self.require_model().classes
        try:
            probabilities = await self._batcher.submit(rows)
        except Overloaded:
            raise RequestError(503, "too many requests are waiting: try again in a second", Retry_After="1") from None
        return classes[probabilities.argmax(axis=1)], probabilities
