"""A connection to NATS, the stream in it that keeps results until they are stored, and what is in its messages."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import unquote, urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from chassis.telemetry import id_of

STREAM, SUBJECT, CONSUMER = "RESULTS", "results", "storage"
PULL = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{CONSUMER}"
ACK_SECONDS = 5  # then a message that is not acknowledged comes again
CONNECT_SECONDS, PING_SECONDS, CLOSE_SECONDS = 2, 2, 1


def read_urls(urls: str) -> tuple[list[str], dict[str, str]]:
    """Return the URLs of a broker, or of several with commas between them, without the user, and the login.

    ValueError if it is no such thing.
    """
    parts = [urlsplit(url.strip().rstrip("/")) for url in urls.split(",")]
    hosts = all(part.scheme == "nats" and part.hostname and part.port != 0 for part in parts)
    if not hosts or any(part.path or part.query or part.fragment for part in parts):
        raise ValueError
    (user, password), *others = {(part.username, part.password) for part in parts}
    if others:
        raise ValueError
    login = {"token": user} if password is None else {"user": user, "password": password}
    return (
        [f"nats://{part.netloc.rpartition('@')[2]}" for part in parts],
        {name: unquote(value) for name, value in login.items() if value is not None},
    )


class Broker(Client):
    """A connection that stays lost when it is lost; who needs one makes another."""

    async def open(self, urls: str, note: Callable[[Exception], Awaitable[None]], closed: Callable) -> None:
        """Connect. `note` is told of errors, `closed` that the connection has ended."""
        addresses, login = read_urls(urls)
        await self.connect(
            addresses,
            **login,
            name="storage",
            error_cb=note,
            closed_cb=closed,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # of connecting, too
            reconnect_time_wait=0.1,
            connect_timeout=CONNECT_SECONDS,
            ping_interval=PING_SECONDS,  # two without an answer end the connection
            flush_timeout=CONNECT_SECONDS,
        )

    async def end(self) -> None:
        """Close it. One that hangs is left alone: nats-py would wait until it has taken what was written to it."""
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.close()
        for subscription in self._subs.values():  # running still, if that has failed
            subscription._stop_processing()

    async def set_up(self, max_bytes: int) -> None:
        """Make the stream and its consumer, or make those that are there as they should be.

        How many brokers of a cluster keep the stream is for those to say who run the cluster: one, unless they did.
        """
        wanted = {
            "subjects": [SUBJECT],
            "storage": StorageType.FILE,
            "retention": RetentionPolicy.WORK_QUEUE,  # what is acknowledged is deleted
            "discard": DiscardPolicy.NEW,  # a full stream refuses, and forgets nothing
            "max_bytes": max_bytes,
            "duplicate_window": 120,  # seconds in which the same Nats-Msg-Id is kept once
        }
        consumer = ConsumerConfig(
            name=CONSUMER,
            durable_name=CONSUMER,  # it stays when nobody is connected
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_SECONDS,
            max_deliver=-1,
        )
        jetstream = self.jetstream()
        try:
            found = await jetstream.stream_info(STREAM)
            await jetstream.update_stream(found.config.evolve(**wanted))
        except NotFoundError:
            await jetstream.add_stream(StreamConfig(name=STREAM, **wanted))
        await jetstream.add_consumer(STREAM, consumer)

    # nats-py stops reading, for good, at headers and reply subjects that it cannot decode. Anybody can send some.

    async def _process_headers(self, headers):
        with suppress(Exception):
            return await super()._process_headers(headers)

    def _build_message(self, *parts):
        with suppress(UnicodeDecodeError):
            return super()._build_message(*parts)


def is_of_stream(message: Msg | None) -> bool:
    """Tell a message of the stream from what the broker itself has to say, and from none at all."""
    return message is not None and message.reply.startswith("$JS.ACK.")


def request_id(message: Msg) -> str:
    """The ids of the requests that have led to it, with commas between them, or a new one, as over HTTP."""
    header = (message.headers or {}).get("X-Request-ID", "")
    return id_of([(b"x-request-id", header.encode())], longest=4096)
