"""Storage behind NATS, a message broker: results are messages, and JetStream keeps them on its disk until storage has
stored them. So storage may be down for an hour. Lists, the summary and health are asked for over HTTP, as always.
"""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256

import orjson
from nats.js.api import KeyValueConfig, StorageType, StreamState
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NoStreamResponseError,
)
from nats.js.kv import KeyValue
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel

import rest_client
from broker import Broker, BrokerUnavailable, Connection
from chassis.errors import RequestError
from chassis.telemetry import request_id
from clients import Claim, Promise, Record, Stored
from idempotency import KEY_TAKEN, IdempotencyKey
from responses import Result

STREAM, SUBJECT = "RESULTS", "results"  # storage makes the stream
CLAIMS, CLAIM_SECONDS = "claims", 24 * 3600  # a bucket, and how long it keeps a claim
FULL = 10077  # JetStream's error code: the stream has no room for a message
HEADER_BYTES = 5000  # at most: X-Request-ID with as many ids as share a message, and the rest
MEASURE_SECONDS = 1


class KeptClaim(BaseModel):
    """What the broker keeps under an Idempotency-Key: its request, and the results once there are some."""

    request: str
    results: list[Result] = []


class Queue(Collector):
    """How many messages wait in the broker. There are no metrics while that is not known."""

    state: StreamState | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self.state:
            waiting = "Messages that wait in the broker for storage"
            yield GaugeMetricFamily("queue_messages", waiting, self.state.messages)
            yield GaugeMetricFamily(
                "queue_bytes", "Bytes that waiting messages take on the broker's disk", self.state.bytes
            )


class Storage(rest_client.Storage):
    """Records through the broker, and asks storage itself over HTTP."""

    def __init__(self, urls: str, http_urls: str, connect_seconds: float, max_claim_bytes: int):
        super().__init__(http_urls, connect_seconds)
        disk = StorageType.FILE
        self._bucket = KeyValueConfig(CLAIMS, storage=disk, ttl=CLAIM_SECONDS, max_bytes=max_claim_bytes)
        self._broker = Broker(urls)
        self.urls = self._broker.urls
        self._queue = Queue()
        self._claims: tuple[Connection, KeyValue] | None = None

    async def open(self) -> None:
        await super().open()
        self._broker.open()
        self._measuring = asyncio.create_task(self._measure())

    async def close(self) -> None:
        self._measuring.cancel()
        await self._broker.close()
        await super().close()

    async def check(self, seconds: float) -> tuple[bool, str | None]:
        """Ask storage over HTTP. Without the broker no result reaches it, even if it is ready."""
        if not self._broker.is_connected:
            return False, "the broker cannot be reached"
        return await super().check(seconds)

    async def claim(self, key: IdempotencyKey, seconds: float) -> Claim:
        own = KeptClaim(request=key.request)

        async def create(connection: Connection) -> tuple[KeptClaim, int]:
            while True:
                claims = await self._open_claims(connection)
                try:
                    return own, await claims.create(key.key, own.model_dump_json().encode())
                except NoStreamResponseError:
                    self._claims = None  # somebody has deleted the bucket: make it again
                except KeyWrongLastSequenceError:
                    if found := await read_claim(claims, key.key):
                        return found

        kept, revision = await self._broker.ask(create, seconds)
        if kept.request != key.request:
            raise RequestError(422, KEY_TAKEN)
        return Claim(kept.results, revision)

    async def record_once(
        self, key: IdempotencyKey, claim: Claim, results: list[Result], seconds: float, record: Record
    ) -> tuple[list[Result], Promise]:
        """Keep the results under the key, then publish them.

        Of several gateways, the first to update the claim wins; the others publish its results, which storage stores
        once. If a gateway dies in between, the next request with the key publishes them.
        """

        body = orjson.dumps({"request": key.request, "results": results})

        async def keep(connection: Connection) -> list[Result]:
            revision = claim.revision
            check_size(connection, body)
            while True:
                claims = await self._open_claims(connection)
                try:
                    await claims.update(key.key, body, last=revision)
                    return results
                except NoStreamResponseError:
                    self._claims = None
                    continue
                except KeyWrongLastSequenceError:  # another gateway was faster, or the claim is over a day old
                    found, revision = await read_claim(claims, key.key) or (None, None)
                if found and found.request != key.request:
                    return results  # the key has a new owner; these results keep the id that is theirs
                if found and found.results:
                    return found.results

        begin = asyncio.get_running_loop().time()
        kept = claim.results or await self._broker.ask(keep, seconds)
        await record(kept, begin + seconds - asyncio.get_running_loop().time())
        return kept, "queued"

    async def record(self, results: list[Result], seconds: float) -> list[Stored]:
        body = orjson.dumps({"results": results})
        # By this id the broker recognises a message that is sent again. It is made of the whole body, since one result
        # may share a message with other results the next time.
        headers = {"Nats-Msg-Id": sha256(body).hexdigest(), "X-Request-ID": request_id.get() or ""}

        async def publish(connection: Connection) -> None:
            check_size(connection, body)
            try:
                await connection.stream.publish(SUBJECT, body, stream=STREAM, headers=headers)
            except NoStreamResponseError:
                raise BrokerUnavailable("has no queue for results yet: storage has to connect to it once") from None
            except APIError as error:
                if error.err_code == FULL and "maximum" in (error.description or ""):
                    raise BrokerUnavailable("cannot keep it: its queue is full") from None
                raise

        # A little less time than the requests wait, so that they get the reason.
        await self._broker.ask(publish, 0.9 * seconds)
        return [Stored("queued")] * len(results)

    async def _open_claims(self, connection: Connection) -> KeyValue:
        """Return the bucket of the claims, looked up once for each connection. Create it if it is missing."""
        if self._claims and self._claims[0] is connection:
            return self._claims[1]
        try:
            claims = await connection.stream.key_value(CLAIMS)
        except BucketNotFoundError:
            claims = await connection.stream.create_key_value(self._bucket)
        self._claims = connection, claims
        return claims

    def queue_metrics(self) -> bytes:
        registry = CollectorRegistry()  # of this process: each worker measures by itself
        registry.register(self._queue)
        return generate_latest(registry)

    async def _measure(self) -> None:
        """Measure the queue, also while storage is down."""
        while True:
            state = None
            with suppress(Exception):  # it is asked again soon
                info = await self._broker.ask(lambda each: each.stream.stream_info(STREAM), MEASURE_SECONDS)
                state = info.state
            self._queue.state = state
            await asyncio.sleep(MEASURE_SECONDS)


async def read_claim(claims: KeyValue, key: str) -> tuple[KeptClaim, int] | None:
    """Return what is kept under a key, and its revision. None if there is nothing."""
    try:
        entry = await claims.get(key)
    except KeyNotFoundError:
        return None
    return KeptClaim.model_validate_json(entry.value or b""), entry.revision or 0


def check_size(connection: Connection, body: bytes) -> None:
    """Raises RequestError (413) if the body is too large: requests that share a message are then sent apart."""
    if len(body) + HEADER_BYTES > connection.client.max_payload:
        raise RequestError(413, f"the broker takes no message of {len(body):,} bytes")
