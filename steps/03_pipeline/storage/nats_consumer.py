"""Store the results that wait in NATS, the message broker.

A message is like the body of POST /results. The broker keeps it on its disk until it is acknowledged, and it is
acknowledged once its results are on disk here. If the process dies in between, the broker delivers the message again,
and its results are still stored once, since they have ids: https://docs.nats.io/nats-concepts/jetstream
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import APIError
from prometheus_client import Counter

import broker
from chassis.errors import RequestError
from chassis.telemetry import log_lines
from dead_letters import Delivery, Rejected
from nats_client import Client
from schemas import MAX_RESULTS, Result, StoreRequest
from service import Service
from settings import Settings

# At most, in a fetch; it returns with what there is, or waits for the first. A message has up to 4 MB.
FETCH_MESSAGES, FETCH_SECONDS = 16, 1
RECONNECT_SECONDS, RETRY_SECONDS, CLOSE_SECONDS, STOP_SECONDS = 0.25, 1, 1, 10
UNREACHABLE = "the broker cannot be reached"

REDELIVERED = Counter("redelivered_messages", "Messages that were delivered again: they had not been acknowledged")


class Consumer:
    """Stores messages from start() to stop(), whenever there is a broker.

    Several consumers share the work, in one process or in many: the broker gives each message to one of them.
    """

    def __init__(self, settings: Settings, service: Service):
        self._urls, self._max_bytes = settings.nats_url, settings.max_queue_bytes
        self._service = service
        self._client: Client | None = None
        self._problem: str | None = UNREACHABLE  # why no message can come
        self._logged: str | None = None  # the last problem in the log
        self._cause: Exception | None = None  # what nats-py said about it

    def start(self) -> None:
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Fetch nothing more; store and acknowledge what is here."""
        self._stopping.set()
        await asyncio.wait([self._task], timeout=STOP_SECONDS)
        self._task.cancel()

    def require_broker(self) -> None:
        """Raises RequestError (503), with the reason, if no message can come."""
        connected = self._client is not None and self._client.is_connected
        if problem := self._problem or (None if connected else UNREACHABLE):
            raise RequestError(503, problem, Retry_After="1")

    async def _run(self) -> None:
        """Connect, as often as it takes. Set up the stream each time: the broker may have lost its data."""
        while not self._stopping.is_set():
            self._cause = None
            try:
                async with self._connection() as client:
                    await self._consume(client, await broker.subscribe(client, self._max_bytes))
            except Exception as error:  # whatever happens, this task has to go on
                self._report(error)
                await self._pause(RECONNECT_SECONDS)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Client]:
        self._client = client = Client()
        try:
            await broker.connect(client, self._urls, self._keep_cause)
            yield client
        finally:
            # nats-py waits until the broker has read what was written. A broker that hangs never does.
            with suppress(Exception):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await client.close()

    async def _consume(self, client: Client, subscription: JetStreamContext.PullSubscription) -> None:
        """Store messages until the service stops. Raises what ends the connection."""
        if self._problem and self._logged:
            logging.warning("the broker can be used again")
        self._problem = self._logged = None
        while not self._stopping.is_set():
            messages = await fetch(subscription, FETCH_MESSAGES)
            await self._store(messages)
            if not messages:
                await broker.remove_acknowledged(client)
        await client.flush()  # the answer comes after all messages that were on their way here
        if subscription.pending_msgs:  # they came just after the last fetch had ended
            await self._store(await fetch(subscription, subscription.pending_msgs))
            await client.flush()

    async def _store(self, messages: list[Msg]) -> None:
        """Store messages and acknowledge them, about as many results at a time as a request may have."""
        batch: list[Delivery] = []
        count = 0
        for message in messages:
            batch.append(Delivery(message))
            count += len(batch[-1].results) + len(batch[-1].rejected)
            if count >= MAX_RESULTS or message is messages[-1]:
                await self._store_batch(batch)
                batch, count = [], 0

    async def _store_batch(self, batch: list[Delivery]) -> None:
        REDELIVERED.inc(sum(delivery.message.metadata.num_delivered > 1 for delivery in batch))
        try:
            await self._commit([(delivery, result) for delivery in batch for result in delivery.results])
            if letters := [letter for delivery in batch for letter in delivery.dead_letters()]:
                await asyncio.to_thread(self._service.store_dead_letters, letters)
        except Exception as error:
            if not isinstance(error, RequestError):
                logging.exception("messages cannot be stored")
            for delivery in batch:
                await delivery.message.nak(RETRY_SECONDS)  # the broker delivers them again after that time
            return await self._pause(RETRY_SECONDS)  # the next messages would fail, too
        for delivery in batch:
            await delivery.message.ack()
            line = {"time": datetime.now(UTC), "level": "INFO", "request_id": delivery.request_id, "message": "message"}
            line |= {"subject": delivery.message.subject, "results": len(delivery.results)}
            log_lines.write(line | {"dead": len(delivery.rejected)})

    async def _commit(self, results: list[tuple[Delivery, Result]]) -> None:
        """Return when the results are on disk. Raises RequestError (503) if that is not possible now.

        If the database refuses them for another reason, halve them until the wrong result is found, and reject that.
        """
        try:
            if results:
                await self._service.store([result for _, result in results])
        except RequestError:
            raise
        except Exception as error:
            if middle := len(results) // 2:
                await self._commit(results[:middle])
                return await self._commit(results[middle:])
            logging.exception("a result cannot be stored")
            ((delivery, result),) = results
            body = StoreRequest(results=[result]).model_dump_json().encode()
            delivery.rejected.append(Rejected(body, f"it cannot be stored: {type(error).__name__}"))

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _keep_cause(self, error: Exception) -> None:
        self._cause = error

    def _report(self, error: Exception) -> None:
        """Keep a sentence for clients. Write the details to the log, once for each problem."""
        self._problem = UNREACHABLE
        if isinstance(error, APIError):
            self._problem = f"the broker cannot be used ({error.description or 'it has no JetStream'})"
        if self._problem != self._logged:
            self._logged, cause = self._problem, self._cause or error
            traceback = None if isinstance(error, (nats.errors.Error, OSError)) else error
            logging.error("%s: %s", self._problem, str(cause) or type(cause).__name__, exc_info=traceback)


async def fetch(subscription: JetStreamContext.PullSubscription, count: int) -> list[Msg]:
    """Return up to `count` messages as soon as there are some; an empty list if none comes in FETCH_SECONDS."""
    try:
        return await subscription.fetch(count, FETCH_SECONDS)
    except TimeoutError:
        return []
