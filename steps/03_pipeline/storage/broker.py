"""The connection to NATS, the message broker, and the stream in it that keeps results until they are stored."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from chassis.telemetry import id_of
from nats_client import Client

STREAM, SUBJECT, CONSUMER = "RESULTS", "results", "storage"
ACK_SECONDS = 5  # the broker delivers a message again if it is not acknowledged by then
CONNECT_SECONDS, PING_SECONDS = 2, 2


class Address(NamedTuple):
    """Where the broker is, and how to log in."""

    urls: list[str]
    user: str | None = None
    password: str | None = None
    token: str | None = None


def read_urls(text: str) -> Address:
    """Read the URL of a broker, or the URLs of a cluster, separated by commas. ValueError if they are not valid."""
    parts = [urlsplit(url.strip().rstrip("/")) for url in text.split(",")]
    if not all(part.scheme == "nats" and part.hostname and part.port != 0 for part in parts):
        raise ValueError
    if any(part.path or part.query or part.fragment for part in parts):
        raise ValueError
    (user, password), *others = {(part.username, part.password) for part in parts}
    if others:  # a cluster has one login
        raise ValueError
    urls = [f"nats://{part.netloc.rpartition('@')[2]}" for part in parts]
    if password is None:
        return Address(urls, token=unquote(user) if user else None)
    return Address(urls, user=unquote(user or ""), password=unquote(password))


async def connect(client: Client, urls: str, on_error: Callable[[Exception], Awaitable[None]]) -> None:
    """Connect a new client. When it loses its connection, it stays closed: connect another one."""
    address = read_urls(urls)
    await client.connect(
        address.urls,
        user=address.user,
        password=address.password,
        token=address.token,
        name="storage",
        error_cb=on_error,
        allow_reconnect=False,
        max_reconnect_attempts=1,  # it also limits the attempts to connect to each URL
        reconnect_time_wait=0,
        connect_timeout=CONNECT_SECONDS,
        ping_interval=PING_SECONDS,  # two pings without an answer close the connection
        flush_timeout=CONNECT_SECONDS,
    )


async def subscribe(client: Client, max_bytes: int) -> JetStreamContext.PullSubscription:
    """Create the stream and its consumer, or bring them up to date, and return a subscription to fetch from.

    `max_bytes` limits what may wait in the stream. The number of its replicas stays as the cluster's operator set it.
    """
    stream: dict[str, Any] = {
        "subjects": [SUBJECT],
        "storage": StorageType.FILE,
        "retention": RetentionPolicy.WORK_QUEUE,  # a message that is acknowledged is deleted
        "discard": DiscardPolicy.NEW,  # a full stream refuses new messages and drops no old one
        "max_bytes": max_bytes,
        "duplicate_window": 120,  # seconds in which a second message with the same Nats-Msg-Id is dropped
    }
    consumer = ConsumerConfig(
        name=CONSUMER,
        durable_name=CONSUMER,  # it stays when no one is connected
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_SECONDS,
        max_deliver=-1,  # as often as it takes
    )
    jetstream = client.jetstream()
    try:
        found = await jetstream.stream_info(STREAM)
        await jetstream.update_stream(found.config.evolve(**stream))
    except NotFoundError:
        await jetstream.add_stream(StreamConfig(name=STREAM).evolve(**stream))
    await jetstream.add_consumer(STREAM, consumer)
    return await jetstream.pull_subscribe_bind(durable=CONSUMER, stream=STREAM)


async def remove_acknowledged(client: Client) -> None:
    """Remove messages that were acknowledged and are still in the stream.

    A broker that is told to end while messages are acknowledged may keep one of them (nats-server 2.15). It does not
    deliver it again, but it would count it as waiting forever.
    """
    jetstream = client.jetstream()
    with suppress(nats.errors.Error):  # it is tried again soon
        if (await jetstream.stream_info(STREAM)).state.messages:
            consumer = await jetstream.consumer_info(STREAM, CONSUMER)
            if consumer.ack_floor:  # every message up to that number was acknowledged
                await jetstream.purge_stream(STREAM, seq=consumer.ack_floor.stream_seq + 1)


def request_id(message: Msg) -> str:
    """Return the ids of the requests that the message is for, joined by commas; a new id if it has none."""
    header = (message.headers or {}).get("X-Request-ID", "")
    return id_of([(b"x-request-id", header.encode())], longest=4096)
