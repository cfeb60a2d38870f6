"""What a message holds: results, and what is none."""

import logging
from typing import NamedTuple

from nats.aio.msg import Msg
from pydantic_core import from_json, to_json

from broker import request_id
from chassis.errors import RequestError
from schemas import MAX_RESULTS, Result, StoreRequest


class Dead(NamedTuple):
    """A body that cannot be stored, and why; when it has been mended, it can be sent again."""

    body: bytes
    reason: str


class Sifted:
    """A message, the results in it, and what is dead."""

    def __init__(self, message: Msg):
        self.message, self.request_id = message, request_id(message)
        self.results, self.dead = sift(message.data)

    def letters(self) -> list[dict]:
        """The rows of what is dead. When the message comes again, they have the same ids."""
        sent = self.message.metadata
        same = {"time": sent.timestamp, "subject": self.message.subject, "request_id": self.request_id}
        id = f"{sent.sequence.stream}-{sent.timestamp:%Y%m%dT%H%M%S%f}"
        return [{**same, **dead._asdict(), "id": f"{id}.{number}"} for number, dead in enumerate(self.dead)]


def sift(body: bytes) -> tuple[list[Result], list[Dead]]:
    """Return the results of a body, and what is none: each for itself, or all of it if it is no list of results."""
    try:
        return StoreRequest.parse(body).results, []
    except RequestError as refused:
        # It may quote what was sent, and PostgreSQL cannot store the character 0.
        reason = "".join(character if character.isprintable() else "?" for character in refused.sentence)
    except Exception as error:  # whatever somebody has sent, the next message is stored
        logging.exception("a message cannot be read")
        reason = f"it cannot be read: {type(error).__name__}"
    parts = split(body)
    if len(parts) == 1:
        return [], [Dead(body, reason)]
    results, dead = [], []
    for part in parts:
        good, bad = sift(part)
        results += good
        dead += bad
    return results, dead


def split(body: bytes) -> list[bytes]:
    """Return a body for each result; the same body if it has one, or too many, or is no list of results."""
    try:
        results = from_json(body)["results"]
    except (ValueError, TypeError, KeyError):
        return [body]
    if not isinstance(results, list) or not 1 < len(results) <= MAX_RESULTS:
        return [body]
    return [to_json({"results": [result]}, inf_nan_mode="constants") for result in results]
