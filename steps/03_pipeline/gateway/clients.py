"""What the gateway asks of the services behind it, whatever wire carries it. Each over_*.py answers it over one."""

from typing import Literal, NamedTuple, Protocol

from prometheus_client import Counter

from chassis.errors import RequestError
from responses import Extraction, Listing, Summary

FAILED = Counter("failed_attempts", "Calls that found nobody or were cut; over gRPC, the last attempts", ["service"])


class Unavailable(RequestError):
    """A service that should have answered did not, or could not."""

    def __init__(self, service: str, why: str):
        super().__init__(503, f"{service} {why}", Retry_After="1")


class Service(Protocol):
    """A service over one wire. Methods with `seconds` are Unavailable if there is no answer by then."""

    name: str

    async def open(self) -> None:
        """Make what calls go through, where an event loop runs. Nobody has to be there yet."""

    async def close(self) -> None: ...

    async def health(self, seconds: float) -> dict:
        """Tell `ready`, `url`, how many `ms` it took to find out, and the `reason` if not all is well, else None."""


class Preprocess(Service, Protocol):
    async def extract(self, picture: bytes, kind: str, seconds: float) -> Extraction:
        """Return the features of a picture of media type `kind`. RequestError if it is none."""


class Prediction(NamedTuple):
    digit: int
    probabilities: list[float]
    model: dict[str, str]  # version and format


class Inference(Service, Protocol):
    calls: int  # that are of use at the same time

    async def predict(self, rows: list[list[float]], seconds: float) -> list[Prediction]:
        """Recognize up to 1,024 rows of 64 numbers."""


class Storage(Service, Protocol):
    async def claim(self, key: str, request: str, seconds: float) -> None:
        """Keep a key for a request, both SHA-256 in hex, for a day. RequestError with 422 if it is another request's."""

    async def record(self, results: list[dict], seconds: float) -> list[Literal[True, "queued"]]:
        """Return for each result what is certain: True if it is stored, "queued" if a broker keeps it until it is."""

    async def list(self, query: dict, seconds: float) -> Listing: ...

    async def summarize(self, seconds: float) -> Summary: ...
