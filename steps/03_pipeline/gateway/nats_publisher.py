"""Storage behind NATS, a message broker. What JetStream, its disk, has acknowledged waits there until storage has it.

Results are messages: storage may be down for an hour. What is asked of storage is a request, and has no answer then.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from math import nan
from typing import Literal, TypeVar

import orjson
from nats.js.api import StorageType
from nats.js.errors import APIError, BucketNotFoundError, KeyWrongLastSequenceError, NoStreamResponseError
from prometheus_client import Gauge

from broker import Broker, BrokerUnavailable, Connection
from chassis.errors import RequestError
from chassis.telemetry import request_id
from clients import Unavailable
from responses import Listing, Summary

Answer = TypeVar("Answer")

STREAM, SUBJECT = "RESULTS", "results"  # storage makes the stream
CLAIMS = {"bucket": "claims", "storage": StorageType.FILE, "ttl": 24 * 3600, "max_bytes": 256_000_000}
FULL = 10077  # what JetStream calls a stream that has no room for a message
HEADER_BYTES = 5000  # at most: X-Request-ID with as many ids as share a message, and the rest
MEASURE_SECONDS = 1

QUEUE = [  # not a number while nobody can tell
    Gauge("queue_messages", "Messages that wait in the broker for storage", multiprocess_mode="mostrecent"),
    Gauge("queue_bytes", "Bytes that they take of its disk", multiprocess_mode="mostrecent"),
]
for gauge in QUEUE:
    gauge.set(nan)


class Storage:
    name = "storage"

    def __init__(self, urls: str):
        self._broker = Broker(urls)

    async def open(self) -> None:
        self._broker.open()
        self._measuring = asyncio.create_task(self._measure())

    async def close(self) -> None:
        self._measuring.cancel()
        await self._broker.close()

    async def claim(self, key: str, request: str, seconds: float) -> None:
        async def keep(connection: Connection) -> bytes:
            try:
                claims = await connection.stream.key_value(CLAIMS["bucket"])
            except BucketNotFoundError:
                claims = await connection.stream.create_key_value(**CLAIMS)
            try:
                await claims.create(key, request.encode())
            except KeyWrongLastSequenceError:  # somebody has it
                return (await claims.get(key)).value
            return request.encode()

        late = BrokerUnavailable("has not acknowledged it in time")
        if await self._broker.ask(keep, seconds, late) != request.encode():
            raise RequestError(422, "this Idempotency-Key was used for another request")

    async def record(self, results: list[dict], seconds: float) -> list[Literal["queued"]]:
        body = orjson.dumps({"results": results})
        # By its id the broker knows a message that comes again. Of a whole body, since what it has results of may vary.
        headers = {"Nats-Msg-Id": sha256(body).hexdigest(), "X-Request-ID": request_id.get()}

        async def publish(connection: Connection) -> None:
            if len(body) + HEADER_BYTES > connection.client.max_payload:
                raise BrokerUnavailable(f"takes no message of {len(body):,} bytes")
            try:
                await connection.stream.publish(SUBJECT, body, stream=STREAM, headers=headers)
            except NoStreamResponseError:
                raise BrokerUnavailable("has no queue for results yet: storage has to connect to it once") from None
            except APIError as error:
                if error.err_code == FULL and "maximum" in error.description:
                    raise BrokerUnavailable("cannot keep it: its queue is full") from None
                raise

        # Those who wait for it have the same deadline, and are to hear why.
        await self._broker.ask(publish, 0.9 * seconds, BrokerUnavailable("has not acknowledged it in time"))
        return ["queued"] * len(results)

    async def list(self, query: dict, seconds: float) -> Listing:
        return await self._read(Listing.model_validate_json, "storage.results", query, seconds)

    async def summarize(self, seconds: float) -> Summary:
        return await self._read(Summary.model_validate_json, "storage.summary", {}, seconds)

    async def health(self, seconds: float) -> dict:
        """Ask storage, through the broker: it is ready if both are."""
        began, reason = asyncio.get_running_loop().time(), None
        try:
            status, content = await self._request("storage.ready", {}, seconds, name="it")
            reason = None if status == 200 else orjson.loads(content)["error"]
        except Unavailable as unavailable:
            reason = unavailable.sentence
        except (ValueError, TypeError, KeyError):
            reason = "it has given an answer that makes no sense"
        took = asyncio.get_running_loop().time() - began
        url = ", ".join(self._broker.urls)
        return {"ready": reason is None, "url": url, "ms": round(1000 * took, 1), "reason": reason}

    async def _read(self, read: Callable[[bytes], Answer], subject: str, asked: dict, seconds: float) -> Answer:
        """Return what storage answers, as `read` understands it. RequestError as storage has refused it."""
        status, content = await self._request(subject, asked, seconds)
        try:
            if status == 200:
                return read(content)
            sentence = orjson.loads(content)["error"]
        except (ValueError, TypeError, KeyError) as error:
            raise Unavailable(self.name, "has given an answer that makes no sense") from error
        if status in (400, 413, 415, 422):
            raise RequestError(status, sentence)
        raise Unavailable(self.name, f"cannot help: {sentence}")

    async def _request(self, subject: str, asked: dict, seconds: float, name: str = name) -> tuple[int, bytes]:
        """Return status and content of what storage answers. Unavailable, with `name` for it, if it does not."""
        body, headers = orjson.dumps(asked), {"X-Request-ID": request_id.get()}
        late = Unavailable(name, "has not answered in time")
        answer = await self._broker.ask(lambda it: it.request(subject, body, headers), seconds, late)
        status = (answer.headers or {}).get("Status", "")
        if status == "503" and not answer.data:  # the broker says that nobody listens
            raise Unavailable(name, "cannot be reached")
        return int(status) if status.isdecimal() else 0, answer.data

    async def _measure(self) -> None:
        """Keep the gauges up to date, also while storage is down."""
        late = BrokerUnavailable("has not answered in time")
        while True:
            waiting = nan, nan
            with suppress(Exception):  # it is asked again soon
                info = await self._broker.ask(lambda it: it.stream.stream_info(STREAM), MEASURE_SECONDS, late)
                waiting = info.state.messages, info.state.bytes
            for gauge, value in zip(QUEUE, waiting, strict=True):
                gauge.set(value)
            await asyncio.sleep(MEASURE_SECONDS)
