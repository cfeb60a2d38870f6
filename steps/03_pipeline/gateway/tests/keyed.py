"""A gateway before either kind of storage, and requests with an Idempotency-Key."""

from collections.abc import Callable
from typing import NamedTuple

from starlette.testclient import TestClient

ROW, OTHER = {"features": [0.5] * 64}, {"features": [1.5] * 64}
TAKEN = {"error": "this Idempotency-Key was used for another request"}


class KeyedGateway(NamedTuple):
    client: TestClient
    recorded: Callable[[], list[dict]]  # results that have reached storage, or the broker
    promise: bool | str


def send(gateway: TestClient, key: str | bytes, body=ROW, headers=()):
    asked = {"content": body} if isinstance(body, bytes) else {"json": body}
    return gateway.post("/inferir", **asked, headers={**dict(headers), "Idempotency-Key": key})
