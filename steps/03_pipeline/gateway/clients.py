"""What the gateway asks of the services behind it. Each transport has a client that implements this."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Literal, NamedTuple

from prometheus_client import Counter

from chassis.errors import RequestError
from idempotency import IdempotencyKey
from responses import Extraction, Health, Label, Listing, Result, Summary

FAILED = Counter(
    "failed_attempts", "Calls that could not be sent or were cut off; over gRPC, only the last", ["service"]
)

Promise = Literal[True, "queued"]  # True: storage has it on disk; "queued": a broker keeps it until storage has it


class Stored(NamedTuple):
    """What is certain about a result that was recorded."""

    promise: Promise
    is_new: bool = False  # True: storage had no result with its id; False: perhaps it had


Record = Callable[[list[Result], float], Awaitable[list[Stored]]]


class Claim(NamedTuple):
    """A key that belongs to a request."""

    results: list[Result]  # kept for the request; empty if there are none yet
    revision: int | None = None  # of what the broker keeps under the key


class Unavailable(RequestError):
    """A service did not answer, or could not do what it was asked for."""

    def __init__(self, service: str, why: str):
        super().__init__(503, f"{service} {why}", Retry_After="1")


class Service(ABC):
    """A service over one transport. Methods with `seconds` raise Unavailable if there is no answer by then."""

    name: str
    urls: list[str]

    @abstractmethod
    async def open(self) -> None:
        """Prepare the connections; an event loop must run. The service need not be there yet."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def check(self, seconds: float) -> tuple[bool, str | None]:
        """Return whether the service is ready, and why it, or one of its replicas, is not."""

    async def health(self, seconds: float) -> Health:
        began = perf_counter()
        ready, reason = await self.check(seconds)
        ms = round(1000 * (perf_counter() - began), 1)
        return Health(ready=ready, url=", ".join(self.urls), ms=ms, reason=reason)


class Preprocess(Service):
    name = "preprocess"

    @abstractmethod
    async def extract(self, picture: bytes, content_type: str, seconds: float) -> Extraction:
        """Return the features of a picture. RequestError (4xx) if preprocess cannot read it."""


class Prediction(NamedTuple):
    prediction: Label
    probabilities: list[float] | None  # None: the model has no probabilities
    model: dict[str, str]  # version and format


class Inference(Service):
    name = "inference"
    calls: int  # how many at the same time are useful

    @abstractmethod
    async def predict(self, rows: list[list[float]], seconds: float) -> list[Prediction]:
        """Return a prediction for each of up to 1,024 rows of features."""


class Storage(Service):
    name = "storage"

    @abstractmethod
    async def claim(self, key: IdempotencyKey, seconds: float) -> Claim:
        """Give a key to a request, for a day.

        Raises RequestError (422) if the key belongs to another request.
        """

    @abstractmethod
    async def record(self, results: list[Result], seconds: float) -> list[Stored]:
        """Record results; say for each what is certain."""

    @abstractmethod
    async def record_once(
        self, key: IdempotencyKey, claim: Claim, results: list[Result], seconds: float, record: Record
    ) -> tuple[list[Result], Promise]:
        """Record the results of a claimed key unless it has results already. Return those that are kept.

        `record` is as the method record(), but lets requests share calls.
        """

    @abstractmethod
    async def list(self, query: dict[str, str | int | None], seconds: float) -> Listing: ...

    @abstractmethod
    async def summarize(self, seconds: float) -> Summary: ...

    def queue_metrics(self) -> bytes:
        """Metrics of the queue before storage, as Prometheus reads them; empty if there is no queue."""
        return b""
