"""What the routes share: the model, loaded once, and the batcher in front of it."""

import asyncio
import contextlib
import logging

import numpy as np
from fastapi import Request
from prometheus_client import Histogram

import model
from batcher import Batcher, Failed, Overloaded
from chassis.errors import RequestError
from chassis.telemetry import SECONDS
from formats import AnswerError, Model
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
    """Predicts between start() and stop(). If the model cannot be used, it says why instead."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.model: Model | None = None
        self.problem = "the model is not loaded yet"

    def start(self) -> None:
        """Load the model. The service also starts with a model that cannot be used."""
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
        """Answer the requests that wait, for at most STOP_SECONDS."""
        if self.model:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._batcher.drain(), STOP_SECONDS)

    def require_model(self) -> Model:
        """Return the model. Raises RequestError (503) with the reason if it cannot be used."""
        if not self.model:
            raise RequestError(503, self.problem)
        return self.model

    def require_ready(self, request: Request) -> None:
        """Raises RequestError (503) with the reason if the service should get no more requests."""
        self.require_model()
        if request.state.leaving:  # server.py sets it
            raise RequestError(503, "the service is shutting down")

    async def predict(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return predictions of shape (n,) and probabilities, float32 of shape (n, classes), or None.

        `rows` are float32 of shape (n, features). Raises RequestError: 503 if the model cannot be used or too many rows
        wait already, 500 if the model's answer cannot be sent.
        """
        loaded = self.require_model()
        try:
            return loaded.decode(await self._batcher.submit(rows))
        except Overloaded:
            raise RequestError(503, "too many requests are waiting: try again in a second", Retry_After="1") from None
        except Failed as error:
            if not isinstance(error.__cause__, AnswerError):
                raise
            logging.error("the model cannot answer a request: %s", error.__cause__)
            raise RequestError(500, str(error.__cause__)) from error
