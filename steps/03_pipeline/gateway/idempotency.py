"""Idempotency-Key: a request that is sent again with its key is stored once and gets the stored answer."""

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

from chassis.errors import RequestError

KEY_TAKEN = "this Idempotency-Key was used for another request"
HEADER = {  # for the manual
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A request that is sent again with its key gets the answer that was stored. Keys last a day.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
}


class IdempotencyKey(NamedTuple):
    """A client's key and the one request that it belongs to, both as SHA-256 digests in hex."""

    key: str
    request: str

    @classmethod
    def make(cls, key: bytes, content_type: str, body: bytes) -> "IdempotencyKey":
        return cls(sha256(key).hexdigest(), sha256(content_type.encode() + b"\0" + body).hexdigest())

    @property
    def result_id(self) -> str:
        """The id of the result: the same each time the request is sent, so that storage keeps it once."""
        return sha256((self.key + self.request).encode()).hexdigest()[:32]


def read_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the value of Idempotency-Key, if there is one. RequestError (422) if it is invalid or sent twice."""
    keys = [value for name, value in headers if name == b"idempotency-key"]
    if len(keys) > 1 or not all(re.fullmatch(rb"[!-~]{1,128}", key) for key in keys):
        raise RequestError(422, "send one Idempotency-Key, of 1 to 128 visible ASCII characters")
    return keys[0] if keys else None
