"""nats-py's client, made to read every message of the stream. Only this file touches what the library keeps private.

A publisher can send headers that cannot be decoded. On such a message, nats-py 2.16 ends its reading task and reports
no error: https://github.com/nats-io/nats.py/pull/914. The broker then delivers the message to the next
connection, which fails in the same way, and no other message gets through. Delete this file when a release reads them.
"""

from contextlib import suppress
from dataclasses import dataclass

from nats.aio import client
from nats.aio.msg import Msg


@dataclass
class Message(Msg):
    """A message without the header `Status` of its publisher: fetch() would take it for a status of the broker."""

    def __post_init__(self) -> None:
        if self.headers and self.reply.startswith("$JS.ACK."):
            self.headers.pop("Status", None)


class Client(client.Client):
    msg_class = Message

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        with suppress(IndexError, ValueError):  # no line end; not UTF-8
            return await super()._process_headers(headers)
        return None
