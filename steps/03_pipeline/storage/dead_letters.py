"""Sort a message: the results that can be stored, and dead letters, which are the parts that cannot.

A dead letter is kept in a table, with the reason, until a person looks at it. If the broker kept it, it would deliver
it again and again. Each result is checked by itself, so that a wrong one does not stop the others.
"""

import logging
from typing import NamedTuple

from nats.aio.msg import Msg
from pydantic_core import from_json, to_json

from broker import request_id
from chassis.errors import RequestError
from schemas import MAX_RESULTS, Result, StoreRequest
from tables import Row


class Rejected(NamedTuple):
    """A part of a message that cannot be stored, as a message of its own: once corrected, it can be sent again."""

    body: bytes
    reason: str


class Delivery:
    """A message from the broker, the results in it, and the parts of it that cannot be stored."""

    def __init__(self, message: Msg):
        self.message, self.request_id = message, request_id(message)
        self.results, self.rejected = sort(message.data)

    def dead_letters(self) -> list[Row]:
        """Return a row for each rejected part. If the message is delivered again, the rows have the same ids."""
        sent = self.message.metadata
        id = f"{sent.sequence.stream}-{sent.timestamp:%Y%m%dT%H%M%S%f}"
        common = {"time": sent.timestamp, "subject": self.message.subject, "request_id": self.request_id}
        return [{**common, **part._asdict(), "id": f"{id}.{number}"} for number, part in enumerate(self.rejected)]


def sort(body: bytes) -> tuple[list[Result], list[Rejected]]:
    """Return the results in a body, and what cannot be stored: single results, or the body as a whole."""
    try:
        return StoreRequest.parse(body).results, []
    except RequestError as error:
        # The sentence may quote what was sent, and PostgreSQL cannot store the character 0.
        reason = "".join(character if character.isprintable() else "?" for character in error.sentence)
    except Exception as error:  # whatever the message holds, the next one has to be stored
        logging.exception("a message cannot be read")
        reason = f"it cannot be read: {type(error).__name__}"
    parts = split(body)
    if len(parts) == 1:
        return [], [Rejected(body, reason)]
    results, rejected = [], []
    for part in parts:
        good, bad = sort(part)
        results += good
        rejected += bad
    return results, rejected


def split(body: bytes) -> list[bytes]:
    """Return a body for each result. The same body if it holds one result, too many, or no list of results at all."""
    try:
        results = from_json(body)["results"]
    except (ValueError, TypeError, KeyError):
        return [body]
    if not isinstance(results, list) or not 1 < len(results) <= MAX_RESULTS:
        return [body]
    return [to_json({"results": [result]}, inf_nan_mode="constants") for result in results]
